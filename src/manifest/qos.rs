//! `status.qosClass` (`pkg/apis/core/v1/helper/qos`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as corev1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::quantity::Quantity;
use crate::spec::QosClass;

/// The class of a pod whose requests have been defaulted from its limits.
#[must_use]
pub fn class(spec: &corev1::PodSpec) -> QosClass {
    if let Some(pod) = spec.resources.as_ref().filter(|pod| is_set(pod)) {
        return class_of(std::iter::once(Some(pod)));
    }
    let init = spec.init_containers.iter().flatten();
    class_of(spec.containers.iter().chain(init).map(|container| container.resources.as_ref()))
}

fn is_set(resources: &corev1::ResourceRequirements) -> bool {
    let is_full = |list: &Option<_>| !cpu_and_memory(list.as_ref()).is_empty();
    is_full(&resources.limits) || is_full(&resources.requests)
}

fn class_of<'r>(all: impl Iterator<Item = Option<&'r corev1::ResourceRequirements>>) -> QosClass {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        let limits = cpu_and_memory(resources.and_then(|r| r.limits.as_ref()));
        let requests = cpu_and_memory(resources.and_then(|r| r.requests.as_ref()));
        any |= !limits.is_empty() || !requests.is_empty();
        guaranteed &= limits.len() == 2 && limits == requests;
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// Only these two count, and zero counts as not set.
fn cpu_and_memory(list: Option<&BTreeMap<String, WireQuantity>>) -> BTreeMap<&str, Quantity> {
    let named =
        list.into_iter().flatten().filter(|(name, _)| ["cpu", "memory"].contains(&name.as_str()));
    let read = named
        .filter_map(|(name, quantity)| Some((name.as_str(), Quantity::parse(&quantity.0).ok()?)));
    read.filter(|(_, quantity)| !quantity.is_zero()).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn resources(
        limits: &[(&str, &str)],
        requests: &[(&str, &str)],
    ) -> corev1::ResourceRequirements {
        let list = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), WireQuantity((*v).to_owned())));
            Some(pairs.collect())
        };
        corev1::ResourceRequirements {
            limits: list(limits),
            requests: list(requests),
            ..corev1::ResourceRequirements::default()
        }
    }

    fn pod(containers: &[corev1::ResourceRequirements]) -> corev1::PodSpec {
        let containers = containers.iter().map(|resources| corev1::Container {
            resources: Some(resources.clone()),
            ..corev1::Container::default()
        });
        corev1::PodSpec { containers: containers.collect(), ..corev1::PodSpec::default() }
    }

    #[test]
    fn the_class_is_kubernetes_own() {
        let both = [("cpu", "1"), ("memory", "1Mi")];
        let same = [("cpu", "1000m"), ("memory", "1024Ki")];
        for (containers, expected) in [
            (vec![resources(&[], &[])], QosClass::BestEffort),
            (vec![resources(&[("cpu", "0")], &[])], QosClass::BestEffort),
            (vec![resources(&[("podling.dev/fuel", "5")], &[])], QosClass::BestEffort),
            (vec![resources(&both, &same)], QosClass::Guaranteed),
            (vec![resources(&both, &both), resources(&[], &[])], QosClass::Burstable),
            (vec![resources(&both, &[("cpu", "1")])], QosClass::Burstable),
            (vec![resources(&[], &[("memory", "1Mi")])], QosClass::Burstable),
        ] {
            assert_eq!(class(&pod(&containers)), expected, "{containers:?}");
        }
        let mut leveled = pod(&[resources(&[], &[])]);
        leveled.resources = Some(resources(&both, &both));
        assert_eq!(class(&leveled), QosClass::Guaranteed);
    }
}
