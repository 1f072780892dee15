//! Medians and percentiles.

/// The value below which `percent` of `samples` lie (nearest rank); 0 of nothing.
#[must_use]
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50)
}

/// How far apart the samples lie: the largest over the smallest.
#[must_use]
pub fn spread(samples: &[f64]) -> f64 {
    percentile(samples, 100) / percentile(samples, 0).max(f64::MIN_POSITIVE)
}
