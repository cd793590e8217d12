//! The control plane's operations: JSON 1.1, told by `X-Amz-Target`.

use bytes::Bytes;

use super::{Call, Fault, Rest};

/// The operations on feature groups, their features and their tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlOperation {
    CreateFeatureGroup,
    DescribeFeatureGroup,
    UpdateFeatureGroup,
    ListFeatureGroups,
    DeleteFeatureGroup,
    DescribeFeatureMetadata,
    UpdateFeatureMetadata,
    AddTags,
    ListTags,
    DeleteTags,
    Search,
}

impl ControlOperation {
    const ALL: [Self; 11] = [
        Self::CreateFeatureGroup,
        Self::DescribeFeatureGroup,
        Self::UpdateFeatureGroup,
        Self::ListFeatureGroups,
        Self::DeleteFeatureGroup,
        Self::DescribeFeatureMetadata,
        Self::UpdateFeatureMetadata,
        Self::AddTags,
        Self::ListTags,
        Self::DeleteTags,
        Self::Search,
    ];

    /// The operation of this name, as it follows `SageMaker.` in the target.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateFeatureGroup => "CreateFeatureGroup",
            Self::DescribeFeatureGroup => "DescribeFeatureGroup",
            Self::UpdateFeatureGroup => "UpdateFeatureGroup",
            Self::ListFeatureGroups => "ListFeatureGroups",
            Self::DeleteFeatureGroup => "DeleteFeatureGroup",
            Self::DescribeFeatureMetadata => "DescribeFeatureMetadata",
            Self::UpdateFeatureMetadata => "UpdateFeatureMetadata",
            Self::AddTags => "AddTags",
            Self::ListTags => "ListTags",
            Self::DeleteTags => "DeleteTags",
            Self::Search => "Search",
        }
    }
}

impl Rest {
    pub(super) async fn run_control(&self, operation: ControlOperation, call: &Call) -> Result<Bytes, Fault> {
        match operation {
            ControlOperation::CreateFeatureGroup => self.create_feature_group(call).await,
            ControlOperation::DescribeFeatureGroup => self.describe_feature_group(call),
            ControlOperation::UpdateFeatureGroup => self.update_feature_group(call).await,
            ControlOperation::ListFeatureGroups => self.list_feature_groups(call),
            ControlOperation::DeleteFeatureGroup => self.delete_feature_group(call).await,
            ControlOperation::DescribeFeatureMetadata => self.describe_feature_metadata(call),
            ControlOperation::UpdateFeatureMetadata => self.update_feature_metadata(call).await,
            ControlOperation::AddTags => self.add_tags(call).await,
            ControlOperation::ListTags => self.list_tags(call),
            ControlOperation::DeleteTags => self.delete_tags(call).await,
            ControlOperation::Search => self.search(call).await,
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
