//! `FeatureDefinition`: its constraints, its rules, and its way to and from the catalog.

use granary_proto::v1;
use granary_types::{CollectionType, Feature, FeatureType};

use super::constraints::Violations;
use super::shapes::{CollectionConfig, FeatureDefinition, VectorConfig};

const FEATURE_TYPES: [&str; 3] = ["Integral", "Fractional", "String"];
const COLLECTION_TYPES: [&str; 3] = ["List", "Set", "Vector"];
const VECTOR: &str = "Vector";

/// A list of 1 to `most` definitions at `field`.
pub(super) fn check(field: &str, definitions: &[FeatureDefinition], most: usize, violations: &mut Violations) {
    violations.count(field, definitions.len(), 1, most);
    for (index, definition) in definitions.iter().enumerate() {
        check_definition(&format!("{field}.{}.member", index + 1), definition, violations);
    }
}

fn check_definition(field: &str, definition: &FeatureDefinition, violations: &mut Violations) {
    let (name, kind) = (format!("{field}.featureName"), format!("{field}.featureType"));
    if let Some(given) = violations.required(&name, &definition.feature_name) {
        violations.name(&name, given);
    }
    if let Some(given) = violations.required(&kind, &definition.feature_type) {
        violations.one_of(&kind, given, &FEATURE_TYPES);
    }
    if let Some(given) = &definition.collection_type {
        violations.one_of(&format!("{field}.collectionType"), given, &COLLECTION_TYPES);
    }
    if let Some(vector) = definition.collection_config.as_ref().and_then(|config| config.vector_config.as_ref()) {
        let dimension = format!("{field}.collectionConfig.vectorConfig.dimension");
        if let Some(given) = violations.required(&dimension, &vector.dimension) {
            violations.range(&dimension, *given, 1, 8_192);
        }
    }
}

/// The rules of collections (contract 2.1), for a group of this storage type that has a Vector already or not.
pub(super) fn check_collections(
    definitions: &[FeatureDefinition],
    storage_type: &str,
    has_vector: bool,
) -> Result<(), String> {
    let is_vector = |definition: &FeatureDefinition| definition.collection_type.as_deref() == Some(VECTOR);
    if definitions.iter().any(|definition| definition.collection_type.is_some()) && storage_type != "InMemory" {
        return Err("collection types need an OnlineStoreConfig with StorageType InMemory".into());
    }
    let vectors = definitions.iter().filter(|definition| is_vector(definition)).count() + usize::from(has_vector);
    if vectors > 1 {
        return Err("a feature group has at most one feature of CollectionType Vector".into());
    }
    let mut odd = definitions.iter().filter(|definition| definition.collection_config.is_some());
    if let Some(odd) = odd.find(|definition| !is_vector(definition)) {
        let name = odd.feature_name.as_deref().unwrap_or_default();
        return Err(format!("feature {name:?}: CollectionConfig is for CollectionType Vector only"));
    }
    Ok(())
}

/// As the router takes it; every constraint holds.
pub(super) fn to_wire(definition: FeatureDefinition) -> v1::Feature {
    let kind = match definition.feature_type.as_deref() {
        Some("Integral") => v1::FeatureType::Integral,
        Some("Fractional") => v1::FeatureType::Fractional,
        _ => v1::FeatureType::String,
    };
    let collection = match definition.collection_type.as_deref() {
        Some("List") => v1::CollectionType::List,
        Some("Set") => v1::CollectionType::Set,
        Some("Vector") => v1::CollectionType::Vector,
        _ => v1::CollectionType::Unspecified,
    };
    let vector = definition.collection_config.and_then(|config| config.vector_config);
    v1::Feature {
        name: definition.feature_name.unwrap_or_default(),
        r#type: kind.into(),
        collection: collection.into(),
        vector_dimension: vector.and_then(|vector| u32::try_from(vector.dimension?).ok()).unwrap_or(0),
        ..v1::Feature::default()
    }
}

/// As it is described.
pub(super) fn described(feature: &Feature) -> FeatureDefinition {
    let (collection, dimension) = match feature.collection {
        None => (None, None),
        Some(CollectionType::List) => (Some("List"), None),
        Some(CollectionType::Set) => (Some("Set"), None),
        Some(CollectionType::Vector { dimension }) => (Some("Vector"), Some(i64::from(dimension))),
    };
    FeatureDefinition {
        feature_name: Some(feature.name.clone()),
        feature_type: Some(type_name(feature).to_owned()),
        collection_type: collection.map(str::to_owned),
        collection_config: dimension
            .map(|dimension| CollectionConfig { vector_config: Some(VectorConfig { dimension: Some(dimension) }) }),
    }
}

/// The name of its type.
pub(super) fn type_name(feature: &Feature) -> &'static str {
    match feature.kind {
        FeatureType::String => "String",
        FeatureType::Integral => "Integral",
        FeatureType::Fractional => "Fractional",
    }
}
