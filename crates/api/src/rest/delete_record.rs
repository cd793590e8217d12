//! DeleteRecord.

use bytes::Bytes;
use granary_router::DeleteCommand;

use super::constraints::Violations;
use super::fault::{Fault, Plane};
use super::query::Query;
use super::shapes::check_targets;
use super::{Call, Rest, names};

const PLANE: Plane = Plane::RuntimeWrite;

impl Rest {
    pub(super) async fn delete_record(&self, segment: &str, call: &Call) -> Result<Bytes, Fault> {
        let command = command(segment, call)?;
        self.router.delete_record(command).await.map_err(|error| Fault::of(PLANE, error))?;
        Ok(Bytes::new())
    }
}

fn command(segment: &str, call: &Call) -> Result<DeleteCommand, Fault> {
    let group = names::name_in_segment(PLANE, segment)?;
    let query = Query::parse(PLANE, call.uri.query())?;
    let mut violations = Violations::default();
    let (identifier, event_time) = (query.one("RecordIdentifierValueAsString"), query.one("EventTime"));
    for (field, text) in [("recordIdentifierValueAsString", &identifier), ("eventTime", &event_time)] {
        if let Some(text) = violations.required(field, text) {
            violations.length(field, text, 1, 358_400);
        }
    }
    let stores = query.all("TargetStores");
    let stores = (!stores.is_empty()).then_some(stores);
    let targets = check_targets(stores.as_deref(), &mut violations);
    let mode = query.one("DeletionMode");
    if let Some(mode) = &mode {
        violations.one_of("deletionMode", mode, &["SoftDelete", "HardDelete"]);
    }
    violations.finish(PLANE)?;
    Ok(DeleteCommand {
        group,
        identifier: identifier.unwrap_or_default(),
        event_time: event_time.unwrap_or_default(),
        hard: mode.as_deref() == Some("HardDelete"),
        targets,
        write_id: call.write_id(),
        timeout: None,
    })
}

#[cfg(test)]
mod tests {
    use granary_types::Targets;
    use http::{HeaderMap, Method};

    use super::*;

    fn parse(query: &str) -> Result<DeleteCommand, Fault> {
        let uri = format!("/x?{query}").parse().expect("a URI");
        command("orders", &Call { method: Method::DELETE, uri, headers: HeaderMap::new(), body: Bytes::new() })
    }

    #[test]
    fn a_delete_is_read() {
        let query = "RecordIdentifierValueAsString=1&EventTime=2024-01-01T00%3A00%3A00Z&TargetStores=OnlineStore\
                     &TargetStores=OfflineStore&DeletionMode=HardDelete";
        let delete = parse(query).expect("valid");
        assert_eq!(delete.event_time, "2024-01-01T00:00:00Z");
        assert_eq!(delete.targets, Some(Targets { online: true, offline: true }));
        assert!(delete.hard);
        let soft = parse("RecordIdentifierValueAsString=1&EventTime=1").expect("valid");
        assert_eq!((soft.hard, soft.targets), (false, None));
    }

    #[test]
    fn faults_are_validation_errors() {
        for query in [
            "RecordIdentifierValueAsString=1",
            "EventTime=1",
            "RecordIdentifierValueAsString=1&EventTime=1&DeletionMode=Gone",
            "RecordIdentifierValueAsString=1&EventTime=1&TargetStores=Nowhere",
        ] {
            assert_eq!(parse(query).expect_err(query).code, "ValidationError");
        }
    }
}
