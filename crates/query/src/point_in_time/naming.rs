//! What the joined features are called in the answer.
//!
//! A feature keeps its name while no other column of the answer has it, in any case. Else it is called
//! `<feature group>__<feature>`; and where one group is joined several times, which takes several key columns (buyer
//! and seller), `<feature group>__<key column>__<feature>`. Columns of the spine always keep their names.

use std::collections::HashMap;

use arrow::datatypes::Schema;

use super::Side;

/// Gives every feature of `sides` its output name.
pub(super) fn settle(spine: &Schema, sides: &mut [Side]) {
    let mut uses: HashMap<String, usize> = HashMap::new();
    let features = sides.iter().flat_map(|side| &side.spec.features).map(|feature| &feature.feature);
    for name in spine.fields().iter().map(|field| field.name()).chain(features) {
        *uses.entry(name.to_lowercase()).or_default() += 1;
    }
    let mut joined: HashMap<String, usize> = HashMap::new();
    for side in sides.iter() {
        *joined.entry(side.group.name.clone()).or_default() += 1;
    }
    for side in sides {
        let label = if joined[&side.group.name] > 1 {
            format!("{}__{}", side.group.name, side.spec.key_column)
        } else {
            side.group.name.clone()
        };
        for feature in &mut side.spec.features {
            let alone = uses[&feature.feature.to_lowercase()] == 1;
            feature.output = if alone { feature.feature.clone() } else { format!("{label}__{}", feature.feature) };
        }
    }
}
