//! The control plane's operations: JSON 1.1, told by `X-Amz-Target`.

use bytes::Bytes;

use super::{Call, Fault, Rest};

/// The operations on feature groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlOperation {
    CreateFeatureGroup,
    DescribeFeatureGroup,
    ListFeatureGroups,
    DeleteFeatureGroup,
}

impl ControlOperation {
    const ALL: [Self; 4] =
        [Self::CreateFeatureGroup, Self::DescribeFeatureGroup, Self::ListFeatureGroups, Self::DeleteFeatureGroup];

    /// The operation of this name, as it follows `SageMaker.` in the target.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateFeatureGroup => "CreateFeatureGroup",
            Self::DescribeFeatureGroup => "DescribeFeatureGroup",
            Self::ListFeatureGroups => "ListFeatureGroups",
            Self::DeleteFeatureGroup => "DeleteFeatureGroup",
        }
    }
}

impl Rest {
    pub(super) async fn run_control(&self, operation: ControlOperation, call: &Call) -> Result<Bytes, Fault> {
        match operation {
            ControlOperation::CreateFeatureGroup => self.create_feature_group(call).await,
            ControlOperation::DescribeFeatureGroup => self.describe_feature_group(call),
            ControlOperation::ListFeatureGroups => self.list_feature_groups(call),
            ControlOperation::DeleteFeatureGroup => self.delete_feature_group(call).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_by_name() {
        for operation in ControlOperation::ALL {
            assert_eq!(ControlOperation::named(operation.name()), Some(operation));
        }
        assert_eq!(ControlOperation::named("CreateModel"), None);
    }
}
