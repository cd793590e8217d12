//! The constraints of SageMaker's model, checked and told as AWS tells them.
//!
//! botocore checks required members, types and minima before it sends; patterns, enums and maxima are the server's.

use granary_types::feature_group::check_name;

use super::fault::{Fault, Plane};
use super::names;

/// The longest value a message repeats, in characters; AWS repeats all of it, be it 350 KB.
const SHOWN_LEN_MAX: usize = 512;

/// A pattern of the model with the code that matches it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    text: &'static str,
    matches: fn(&str) -> bool,
}

/// Feature groups and features.
pub(super) const NAME: Pattern =
    Pattern { text: "[a-zA-Z0-9]([_-]*[a-zA-Z0-9]){0,63}", matches: |text| check_name("feature group", text).is_ok() };
/// A feature group by name or ARN.
pub(super) const NAME_OR_ARN: Pattern = Pattern {
    text: "(arn:aws[a-z\\-]*:sagemaker:[a-z0-9\\-]*:[0-9]{12}:feature-group/)?([a-zA-Z0-9]([_-]*[a-zA-Z0-9]){0,63})",
    matches: |text| names::name_of(text).is_some(),
};
/// A key of the key service.
pub(super) const KMS_KEY: Pattern = Pattern {
    text: "[a-zA-Z0-9:/_-]*",
    matches: |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte)),
};
/// A place of the offline store.
pub(super) const S3_URI: Pattern = Pattern {
    text: "(https|s3)://([^/]+)/?(.*)",
    matches: |text| {
        let rest = text.strip_prefix("s3://").or_else(|| text.strip_prefix("https://"));
        rest.is_some_and(|rest| rest.chars().next().is_some_and(|first| first != '/'))
    },
};
/// An execution role.
pub(super) const ROLE_ARN: Pattern =
    Pattern { text: "arn:aws[a-z\\-]*:iam::\\d{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+", matches: is_role_arn };
/// A key or value of a tag.
pub(super) const TAG_TEXT: Pattern =
    Pattern { text: "([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)", matches: |text| text.chars().all(|c| is_text(c) || c == '@') };
/// A key or value of a parameter of a feature.
pub(super) const PARAMETER_TEXT: Pattern =
    Pattern { text: "([\\p{L}\\p{Z}\\p{N}_.:/=+\\-]*)", matches: |text| text.chars().all(is_text) };
/// Anything that can have tags.
pub(super) const RESOURCE_ARN: Pattern =
    Pattern { text: "arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:.+", matches: is_resource_arn };

/// `[\p{L}\p{Z}\p{N}_.:/=+\-]`: of white space only what is no control character.
fn is_text(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-".contains(c)
}

fn is_resource_arn(text: &str) -> bool {
    text.strip_prefix("arn:aws").and_then(names::resource_in_arn).is_some_and(|resource| !resource.is_empty())
}

fn is_role_arn(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("arn:aws") else { return false };
    let Some((partition, rest)) = rest.split_once(":iam::") else { return false };
    let Some((account, role)) = rest.split_once(":role") else { return false };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte);
    partition.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !role.is_empty()
        && role != "/"
        && role.bytes().all(inner)
}

/// How many broken constraints are told in words; more are counted.
const TOLD_MAX: usize = 20;

/// The constraints that a request breaks, collected so that all are told at once.
#[derive(Debug, Default)]
pub(super) struct Violations {
    /// The first ones, in words.
    told: Vec<String>,
    found: usize,
}

impl Violations {
    fn add(&mut self, value: &str, field: &str, constraint: &str) {
        let shown: String = value.chars().take(SHOWN_LEN_MAX).collect();
        self.tell(format_args!("Value '{shown}' at '{field}' failed to satisfy constraint: {constraint}"));
    }

    fn tell(&mut self, violation: std::fmt::Arguments<'_>) {
        self.found += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(violation.to_string());
        }
    }

    /// A member that must be there; the value where it is.
    pub(super) fn required<'a, T>(&mut self, field: &str, value: &'a Option<T>) -> Option<&'a T> {
        if value.is_none() {
            self.tell(format_args!("Value null at '{field}' failed to satisfy constraint: Member must not be null"));
        }
        value.as_ref()
    }

    /// Between `least` and `most` characters.
    pub(super) fn length(&mut self, field: &str, text: &str, least: usize, most: usize) {
        let length = text.chars().count();
        if length < least {
            self.add(text, field, &format!("Member must have length greater than or equal to {least}"));
        } else if length > most {
            self.add(text, field, &format!("Member must have length less than or equal to {most}"));
        }
    }

    /// Between `least` and `most` members of a list.
    pub(super) fn count(&mut self, field: &str, count: usize, least: usize, most: usize) {
        let list = format!("[{count} members]");
        if count < least {
            self.add(&list, field, &format!("Member must have length greater than or equal to {least}"));
        } else if count > most {
            self.add(&list, field, &format!("Member must have length less than or equal to {most}"));
        }
    }

    pub(super) fn pattern(&mut self, field: &str, text: &str, pattern: Pattern) {
        if !(pattern.matches)(text) {
            self.add(text, field, &format!("Member must satisfy regular expression pattern: {}", pattern.text));
        }
    }

    /// One of an enum's members.
    pub(super) fn one_of(&mut self, field: &str, text: &str, members: &[&str]) {
        if !members.contains(&text) {
            self.add(text, field, &format!("Member must satisfy enum value set: [{}]", members.join(", ")));
        }
    }

    /// Between `least` and `most`.
    pub(super) fn range(&mut self, field: &str, number: i64, least: i64, most: i64) {
        if number < least {
            self.add(&number.to_string(), field, &format!("Member must have value greater than or equal to {least}"));
        } else if number > most {
            self.add(&number.to_string(), field, &format!("Member must have value less than or equal to {most}"));
        }
    }

    /// The name of a group or a feature: length and pattern.
    pub(super) fn name(&mut self, field: &str, text: &str) {
        self.length(field, text, 1, granary_types::feature_group::NAME_LEN_MAX);
        self.pattern(field, text, NAME);
    }

    /// Nothing, or all that was found as one fault.
    pub(super) fn finish(self, plane: Plane) -> Result<(), Fault> {
        let errors = match self.found {
            0 => return Ok(()),
            1 => "1 validation error".to_owned(),
            count => format!("{count} validation errors"),
        };
        Err(Fault::constraints(plane, format!("{errors} detected: {}", self.told.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_constraints_are_told_as_aws_tells_them() {
        let mut violations = Violations::default();
        violations.name("featureGroupName", "-x");
        violations.required::<String>("recordIdentifierFeatureName", &None);
        violations.one_of("featureDefinitions.1.member.featureType", "Int", &["Integral", "Fractional", "String"]);
        violations.range("maxResults", 101, 1, 100);
        let fault = violations.finish(Plane::Control).expect_err("four are broken");
        assert_eq!(fault.code, "ValidationException");
        assert_eq!(
            fault.message,
            "4 validation errors detected: \
             Value '-x' at 'featureGroupName' failed to satisfy constraint: Member must satisfy regular expression \
             pattern: [a-zA-Z0-9]([_-]*[a-zA-Z0-9]){0,63}; \
             Value null at 'recordIdentifierFeatureName' failed to satisfy constraint: Member must not be null; \
             Value 'Int' at 'featureDefinitions.1.member.featureType' failed to satisfy constraint: Member must \
             satisfy enum value set: [Integral, Fractional, String]; \
             Value '101' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 100"
        );
    }

    #[test]
    fn a_request_that_is_wrong_all_over_is_not_told_all_of_it() {
        let mut violations = Violations::default();
        for member in 0..10_000 {
            violations.name(&format!("member.{member}"), "-");
        }
        let message = violations.finish(Plane::Control).expect_err("all are broken").message;
        assert!(message.starts_with("10000 validation errors detected: Value '-' at 'member.0'"), "{message}");
        assert_eq!(message.matches("failed to satisfy").count(), TOLD_MAX);
    }

    #[test]
    fn patterns_match_what_the_model_matches() {
        let cases: [(Pattern, &[&str], &[&str]); 7] = [
            (S3_URI, &["s3://b", "https://b/p/q", "s3://b/"], &["s3://", "b/p", "s3:///p", "ftp://b"]),
            (KMS_KEY, &["", "arn:aws:kms:eu-west-1:1:key/a-b_c"], &["a b", "a*"]),
            (
                ROLE_ARN,
                &["arn:aws:iam::123456789012:role/service-role/x", "arn:aws-cn:iam::123456789012:role/x"],
                &["arn:aws:iam::12345:role/x", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::123456789012:role/"],
            ),
            (TAG_TEXT, &["", "Größe 1_2.3:4/5=6+7-8@9"], &["a*", "a#", "a\tb"]),
            (PARAMETER_TEXT, &["", "Größe 1_2.3:4/5=6+7-8"], &["a@b", "a*"]),
            (
                RESOURCE_ARN,
                &["arn:aws:sagemaker:us-east-1:123456789012:model/m", "arn:aws:sagemaker::123456789012:x"],
                &["arn:aws:sagemaker:us-east-1:123456789012:", "arn:aws:s3:::b", "x"],
            ),
            (NAME_OR_ARN, &["fg", "arn:aws:sagemaker:us-east-1:123456789012:feature-group/FG-1"], &["arn:fg", "a/b"]),
        ];
        for (pattern, good, bad) in cases {
            for text in good {
                assert!((pattern.matches)(text), "{text:?} should match {}", pattern.text);
            }
            for text in bad {
                assert!(!(pattern.matches)(text), "{text:?} should not match {}", pattern.text);
            }
        }
    }
}
