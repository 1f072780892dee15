//! An ordered table with a second index, and the queries asked of it.

use std::collections::{BTreeMap, HashMap};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) value: i64,
}

pub(crate) struct Table {
    by_id: BTreeMap<u64, Row>,
    by_name: HashMap<String, Vec<u64>, Fixed>,
}

/// A hasher without a random seed, so that every run does the same work.
type Fixed = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;

impl Table {
    pub(crate) fn filled(seed: u32, rows: u32) -> Self {
        let mut table = Self { by_id: BTreeMap::new(), by_name: HashMap::default() };
        let mut random = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for _ in 0..rows {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let name = format!("sensor-{}", random % 97);
            let row = Row { id: random >> 20, name: name.clone(), value: (random as i64) >> 40 };
            table.by_name.entry(name).or_default().push(row.id);
            table.by_id.insert(row.id, row);
        }
        table
    }

    /// The largest values of each name, sorted, and a few ranges of the table after them.
    pub(crate) fn query(&self) -> Vec<Row> {
        let mut names: Vec<&String> = self.by_name.keys().collect();
        names.sort();
        let mut answers = Vec::new();
        for name in names {
            let mut rows: Vec<&Row> =
                self.by_name[name].iter().filter_map(|id| self.by_id.get(id)).collect();
            rows.sort_by_key(|row| (-row.value, row.id));
            answers.extend(rows.into_iter().take(8).cloned());
        }
        let step = (u64::MAX >> 20) / 16;
        for start in (0..16).map(|part| part * step) {
            answers.extend(self.by_id.range(start..).take(16).map(|(_, row)| row.clone()));
        }
        answers
    }
}
