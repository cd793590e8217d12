//! The runtime's operations: REST-JSON, told by method and raw path.

use bytes::Bytes;
use http::Method;

use super::{Call, Fault, Rest};

const GROUPS: &str = "/FeatureGroup/";

/// The operations on records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuntimeOperation {
    PutRecord,
    GetRecord,
    DeleteRecord,
    BatchGetRecord,
    BatchWriteRecord,
    ListRecords,
    UpdateRecord,
}

impl RuntimeOperation {
    /// The operation at this method and raw path, and the path's segment that names the feature group, if any.
    pub(super) fn at<'a>(method: &Method, path: &'a str) -> Option<(Self, &'a str)> {
        if *method == Method::POST {
            match path {
                "/BatchGetRecord" => return Some((Self::BatchGetRecord, "")),
                "/BatchWriteRecord" => return Some((Self::BatchWriteRecord, "")),
                _ => {}
            }
        }
        // An ARN travels as one percent-encoded segment.
        match path.strip_prefix(GROUPS)?.split_once('/') {
            None => {
                let segment = &path[GROUPS.len()..];
                match *method {
                    Method::PUT => Some((Self::PutRecord, segment)),
                    Method::GET => Some((Self::GetRecord, segment)),
                    Method::DELETE => Some((Self::DeleteRecord, segment)),
                    _ => None,
                }
            }
            Some((segment, "Record")) if *method == Method::POST => Some((Self::UpdateRecord, segment)),
            Some((segment, "ListRecords")) if *method == Method::POST => Some((Self::ListRecords, segment)),
            Some(_) => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PutRecord => "PutRecord",
            Self::GetRecord => "GetRecord",
            Self::DeleteRecord => "DeleteRecord",
            Self::BatchGetRecord => "BatchGetRecord",
            Self::BatchWriteRecord => "BatchWriteRecord",
            Self::ListRecords => "ListRecords",
            Self::UpdateRecord => "UpdateRecord",
        }
    }
}

impl Rest {
    pub(super) async fn run_runtime(
        &self,
        operation: RuntimeOperation,
        segment: &str,
        call: &Call,
    ) -> Result<Bytes, Fault> {
        match operation {
            RuntimeOperation::PutRecord => self.put_record(segment, call).await,
            RuntimeOperation::GetRecord => self.get_record(segment, call).await,
            RuntimeOperation::DeleteRecord => self.delete_record(segment, call).await,
            RuntimeOperation::BatchGetRecord => self.batch_get_record(call).await,
            RuntimeOperation::BatchWriteRecord => self.batch_write_record(call).await,
            RuntimeOperation::ListRecords => self.list_records(segment, call).await,
            RuntimeOperation::UpdateRecord => self.update_record(segment, call).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_raw() {
        let arn = "/FeatureGroup/arn%3Aaws%3Asagemaker%3Aus-east-1%3A123456789012%3Afeature-group%2Fmy-fg";
        let put = RuntimeOperation::at(&Method::PUT, arn);
        assert_eq!(put, Some((RuntimeOperation::PutRecord, &arn[GROUPS.len()..])));
        let get = RuntimeOperation::at(&Method::GET, "/FeatureGroup/a");
        assert_eq!(get, Some((RuntimeOperation::GetRecord, "a")));
        assert_eq!(RuntimeOperation::at(&Method::POST, "/FeatureGroup/a"), None);
        assert_eq!(RuntimeOperation::at(&Method::PUT, "/FeatureGroup/a/b"), None);
        let posted = |path| RuntimeOperation::at(&Method::POST, path);
        assert_eq!(posted("/FeatureGroup/a/Record"), Some((RuntimeOperation::UpdateRecord, "a")));
        assert_eq!(posted("/FeatureGroup/a/ListRecords"), Some((RuntimeOperation::ListRecords, "a")));
        assert_eq!(posted("/BatchWriteRecord"), Some((RuntimeOperation::BatchWriteRecord, "")));
        assert_eq!(posted("/FeatureGroup/a/Record/b"), None);
        assert_eq!(RuntimeOperation::at(&Method::PUT, "/FeatureGroup/a/Record"), None);
        assert_eq!(RuntimeOperation::at(&Method::GET, "/BatchGetRecord"), None);
    }
}
