//! `--feature NAME:TYPE`.

use std::str::FromStr;

use granary_proto::v1::{CollectionType, Feature, FeatureType};

/// A feature and its type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FeatureArg(pub(crate) Feature);

impl FromStr for FeatureArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, kind) = text.split_once(':').ok_or("expected NAME:TYPE, such as age:Integral")?;
        let mut feature = Feature { name: name.to_owned(), ..Feature::default() };
        let (collection, element) = match kind.split_once('<').map(|(outer, rest)| (outer, rest.strip_suffix('>'))) {
            None => (CollectionType::Unspecified, kind),
            Some(("List", Some(element))) => (CollectionType::List, element),
            Some(("Set", Some(element))) => (CollectionType::Set, element),
            Some(("Vector", Some(dimension))) => {
                feature.vector_dimension =
                    dimension.parse().map_err(|_| format!("{dimension:?} is not the dimension of a Vector"))?;
                (CollectionType::Vector, "Fractional")
            }
            Some(_) => return Err(unknown_type(kind)),
        };
        feature.set_collection(collection);
        feature.set_type(match element {
            "String" => FeatureType::String,
            "Integral" => FeatureType::Integral,
            "Fractional" => FeatureType::Fractional,
            _ => return Err(unknown_type(kind)),
        });
        Ok(Self(feature))
    }
}

/// A feature's type as [`FeatureArg`] reads it.
pub(crate) fn type_name(feature: &Feature) -> String {
    let element = match feature.r#type() {
        FeatureType::String => "String",
        FeatureType::Integral => "Integral",
        FeatureType::Fractional => "Fractional",
        FeatureType::Unspecified => "unknown",
    };
    match feature.collection() {
        CollectionType::Unspecified => element.to_owned(),
        CollectionType::List => format!("List<{element}>"),
        CollectionType::Set => format!("Set<{element}>"),
        CollectionType::Vector => format!("Vector<{}>", feature.vector_dimension),
    }
}

fn unknown_type(kind: &str) -> String {
    format!("{kind:?} is not a type: String, Integral, Fractional, List<T>, Set<T> or Vector<N>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_both_ways() {
        for kind in ["String", "Integral", "Fractional", "List<String>", "Set<Integral>", "Vector<128>"] {
            let parsed: FeatureArg = format!("x:{kind}").parse().expect(kind);
            assert_eq!((parsed.0.name.as_str(), type_name(&parsed.0).as_str()), ("x", kind));
        }
        for text in ["x", "x:", "x:string", "x:List", "x:List<", "x:List<Vector<3>>", "x:Vector<a>", "x:Map<String>"] {
            assert!(text.parse::<FeatureArg>().is_err(), "{text:?} was accepted");
        }
    }
}
