//! Feature groups by name or ARN.

use granary_types::feature_group::check_name;
use percent_encoding::percent_decode_str;

use super::constraints::{NAME_OR_ARN, Violations};
use super::fault::{Fault, Plane};
use crate::Settings;

/// The ARN of a feature group: letters keep their case, as on AWS.
pub(super) fn arn_of(settings: &Settings, name: &str) -> String {
    format!("arn:aws:sagemaker:{}:{}:feature-group/{name}", settings.region, settings.account_id)
}

/// The name in a name or an ARN; `None` where it is neither. Account and region of an ARN are not compared with this
/// deployment's: one deployment is one account, and code that moves here brings the ARNs it had.
pub(super) fn name_of(name_or_arn: &str) -> Option<&str> {
    let name = match name_or_arn.strip_prefix("arn:aws") {
        Some(rest) => name_in_arn(rest)?,
        None => name_or_arn,
    };
    check_name("feature group", name).is_ok().then_some(name)
}

/// `rest` is what follows `arn:aws`: `[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:feature-group/NAME`.
fn name_in_arn(rest: &str) -> Option<&str> {
    resource_in_arn(rest)?.strip_prefix("feature-group/")
}

/// What an ARN of SageMaker ends with; `rest` is what follows `arn:aws`.
pub(super) fn resource_in_arn(rest: &str) -> Option<&str> {
    let mut parts = rest.splitn(5, ':');
    let (partition, service) = (parts.next()?, parts.next()?);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = partition.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        && service == "sagemaker"
        && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit());
    fits.then_some(resource)
}

/// The group's name from a member that holds name or ARN, after the constraints of `plane`.
pub(super) fn checked_name(plane: Plane, field: &str, text: &str) -> Result<String, Fault> {
    let mut violations = Violations::default();
    if plane == Plane::Control {
        violations.length(field, text, 1, 256);
        violations.pattern(field, text, NAME_OR_ARN);
    } else {
        check_runtime_name(field, text, &mut violations);
    }
    violations.finish(plane)?;
    Ok(name_of(text).expect("it matches the pattern").to_owned())
}

/// The group's name from the member `FeatureGroupName` of the control plane, which must be there.
pub(super) fn required(name_or_arn: &Option<String>) -> Result<String, Fault> {
    let mut violations = Violations::default();
    let given = violations.required("featureGroupName", name_or_arn).cloned().unwrap_or_default();
    violations.finish(Plane::Control)?;
    checked_name(Plane::Control, "featureGroupName", &given)
}

/// Name or ARN as the runtime takes it.
pub(super) fn check_runtime_name(field: &str, text: &str, violations: &mut Violations) {
    violations.length(field, text, 1, 150);
    violations.pattern(field, text, NAME_OR_ARN);
}

/// The group's name from a raw segment of a path.
pub(super) fn name_in_segment(plane: Plane, segment: &str) -> Result<String, Fault> {
    let text = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| Fault::invalid(plane, "the feature group's name in the path is not UTF-8"))?;
    checked_name(plane, "featureGroupName", &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_are_taken() {
        let settings = Settings::default();
        let arn = arn_of(&settings, "FG-online-1");
        assert_eq!(arn, "arn:aws:sagemaker:us-east-1:000000000000:feature-group/FG-online-1");
        assert_eq!(name_of(&arn), Some("FG-online-1"));
        assert_eq!(name_of("fg"), Some("fg"));
        for text in ["", "a/b", "arn:aws:sagemaker:us-east-1:1:feature-group/a", "arn:aws:s3:::b", "fg-"] {
            assert_eq!(name_of(text), None, "{text:?}");
        }
        let encoded = "arn%3Aaws%3Asagemaker%3Aus-east-1%3A123456789012%3Afeature-group%2Fmy-fg";
        assert_eq!(name_in_segment(Plane::RuntimeRead, encoded).as_deref(), Ok("my-fg"));
        assert!(name_in_segment(Plane::RuntimeRead, "a%20b").is_err());
    }
}
