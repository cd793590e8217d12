//! Commands as tests write them.

use bytes::Bytes;
use granary_catalog::{CatalogState, OfflineDefaults, resolve_offline};
use granary_proto::internal::meta_command::Command;
use granary_proto::internal::meta_reply::Result as Outcome;
use granary_proto::internal::{CreateGroup, CreateShards, DeleteGroup, MetaCommand, RegisterNode, UpdateGroup};
use granary_proto::v1;
use granary_proto::v1::update_feature_group_request::Change;
use granary_types::ClusterId;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x0067_7261_6e61_7279);
/// 2024-05-06T07:08:09.123Z.
pub(crate) const NOW_MS: u64 = 1_714_979_289_123;

/// A state and the index of its next command.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) state: CatalogState,
    index: u64,
}

impl Meta {
    pub(crate) fn new() -> Self {
        Self { state: CatalogState::new(CLUSTER), index: 0 }
    }

    /// Three nodes at `n1:1` to `n3:3`.
    pub(crate) fn of_three_nodes() -> Self {
        let mut meta = Self::new();
        for node in 1..=3 {
            assert_eq!(
                meta.apply(register(node, u128::from(node), &format!("n{node}:{node}"))),
                Ok(Outcome::Node(node))
            );
        }
        meta
    }

    /// The outcome of a command; a refusal as its kind and message.
    pub(crate) fn apply(&mut self, command: Command) -> Result<Outcome, (String, String)> {
        // Indexes rise but are not dense.
        self.index += 3;
        let command = MetaCommand { command: Some(command) };
        let reply = self.state.apply(self.index, &command).expect("the command is known");
        assert_eq!(self.state.version(), self.index);
        match reply.result.expect("every reply has a result") {
            Outcome::Error(error) => Err((error.kind, error.message)),
            outcome => Ok(outcome),
        }
    }

    /// As `apply`; a refusal as its kind.
    pub(crate) fn kind(&mut self, command: Command) -> Result<Outcome, String> {
        self.apply(command).map_err(|(kind, _)| kind)
    }

    pub(crate) fn create(&mut self, command: CreateGroup) -> Result<v1::FeatureGroup, (String, String)> {
        self.apply(Command::CreateFeatureGroup(command)).map(group_of)
    }
}

/// The group that a command is answered with.
pub(crate) fn group_of(outcome: Outcome) -> v1::FeatureGroup {
    match outcome {
        Outcome::FeatureGroup(group) => group,
        other => panic!("a group is answered with, got {other:?}"),
    }
}

pub(crate) fn register(node: u64, uuid: u128, address: &str) -> Command {
    let uuid = Bytes::copy_from_slice(&uuid.to_be_bytes());
    Command::RegisterNode(RegisterNode { node, uuid, address: address.to_owned() })
}

pub(crate) fn shards(shards: u32, replicas: u32) -> Command {
    Command::CreateShards(CreateShards { shards, replicas })
}

pub(crate) fn delete(name: &str) -> Command {
    Command::DeleteFeatureGroup(DeleteGroup { name: name.to_owned(), now_ms: NOW_MS + 5_000 })
}

pub(crate) fn add_features(name: &str, features: &[v1::Feature], now_ms: u64) -> Command {
    let additions = v1::FeatureAdditions { features: features.to_vec() };
    let request = v1::UpdateFeatureGroupRequest { name: name.to_owned(), change: Some(Change::Additions(additions)) };
    Command::UpdateFeatureGroup(UpdateGroup { request: Some(request), now_ms })
}

pub(crate) fn feature(name: &str, kind: v1::FeatureType) -> v1::Feature {
    v1::Feature { name: name.to_owned(), r#type: kind.into(), ..Default::default() }
}

/// A request for a group with an online store.
pub(crate) fn online(name: &str) -> v1::CreateFeatureGroupRequest {
    v1::CreateFeatureGroupRequest {
        name: name.to_owned(),
        features: vec![
            feature("id", v1::FeatureType::String),
            feature("at", v1::FeatureType::Fractional),
            feature("amount", v1::FeatureType::Integral),
        ],
        record_identifier_feature: "id".to_owned(),
        event_time_feature: "at".to_owned(),
        online: Some(v1::OnlineConfig::default()),
        description: "payments".to_owned(),
        tags: [("team", "risk"), ("tier", "1")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..Default::default()
    }
}

/// A request for a group with both stores.
pub(crate) fn with_offline(name: &str) -> v1::CreateFeatureGroupRequest {
    v1::CreateFeatureGroupRequest { offline: Some(v1::OfflineConfig::default()), ..online(name) }
}

pub(crate) fn defaults() -> OfflineDefaults {
    OfflineDefaults {
        account: "123456789012".to_owned(),
        region: "eu-central-1".to_owned(),
        s3_uri: "s3://granary/store/".to_owned(),
    }
}

/// The command of a request at `now_ms`, its offline store resolved.
pub(crate) fn create_at(request: v1::CreateFeatureGroupRequest, now_ms: u64) -> CreateGroup {
    let mut command = CreateGroup { request: Some(request), now_ms, ..Default::default() };
    resolve_offline(&mut command, &defaults()).expect("the request can be resolved");
    command
}
