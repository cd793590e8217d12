//! Where a new group's history shall lie, and what SQL clients call it (contract 2.1, 2.2 and 4.1).
//!
//! The proposer works it out and writes it into the command, since the meta group knows neither account nor region.
//! Apply checks it again ([`check_uri`]) and keeps two groups from sharing a place.

use granary_proto::internal::CreateGroup;
use granary_proto::v1;
use granary_types::Error;
use granary_types::feature_group::check_name;

/// The longest URI (contract 2.1), in bytes; a resolved one is longer by account, region and name.
const URI_LEN_MAX: usize = 1_024;
const RESOLVED_SUFFIX_LEN_MAX: usize = 256;
const CATALOG: &str = "AwsDataCatalog";
const DATABASE: &str = "sagemaker_featurestore";
/// The longest name of a catalog, a database or a table (contract 2.1).
const CATALOG_NAME_LEN_MAX: usize = 255;

/// What a deployment fills in for what a request leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineDefaults {
    /// The account number that stands in resolved URIs and ARNs: 12 digits.
    pub account: String,
    /// The region that stands in resolved URIs and ARNs.
    pub region: String,
    /// `s3://bucket/prefix` for groups that name none.
    pub s3_uri: String,
}

/// Fills in `resolved_uri` and `data_catalog` of a command, from its request and its `now_ms`, and the default URI
/// into a request that names none. Does nothing for a group without an offline store.
///
/// The names hold the second of creation: `{s3_uri}/{account}/sagemaker/{region}/offline-store/{name}-{s}/data`
/// and the table `{name, - as _, lower case}_{s}`. Apply answers `Unavailable` when the second is taken; resolve
/// again with a later `now_ms` then.
///
/// # Errors
/// `Invalid` for a bad name or URI, for a data catalog name that is too long, and for an Iceberg table without a
/// table in the data catalog.
pub fn resolve_offline(command: &mut CreateGroup, defaults: &OfflineDefaults) -> Result<(), Error> {
    let created_s = command.now_ms / 1_000;
    let request = command.request.as_mut().ok_or_else(|| Error::invalid("a feature group needs a description"))?;
    command.resolved_uri = String::new();
    command.data_catalog = None;
    let Some(offline) = request.offline.as_mut() else { return Ok(()) };

    check_name("feature group", &request.name)?;
    if offline.s3_uri.is_empty() {
        offline.s3_uri.clone_from(&defaults.s3_uri);
    }
    if offline.s3_uri.len() > URI_LEN_MAX {
        return Err(Error::invalid(format!("S3Uri has more than {URI_LEN_MAX} characters")));
    }
    command.resolved_uri = format!(
        "{}/{}/sagemaker/{}/offline-store/{}-{created_s}/data",
        offline.s3_uri.trim_end_matches('/'),
        defaults.account,
        defaults.region,
        request.name,
    );
    check_uri("S3Uri", &command.resolved_uri)?;
    command.data_catalog = resolve_data_catalog(&request.name, offline, created_s)?;
    Ok(())
}

/// The four combinations of contract 2.1: nothing given and no table wanted is nothing; otherwise what is given, and
/// the usual names for the rest.
fn resolve_data_catalog(
    group: &str,
    offline: &v1::OfflineConfig,
    created_s: u64,
) -> Result<Option<v1::DataCatalog>, Error> {
    if offline.table_format == "Iceberg" && offline.disable_glue_table_creation {
        return Err(Error::invalid("TableFormat Iceberg requires DisableGlueTableCreation to be false"));
    }
    let given = match &offline.data_catalog {
        None if offline.disable_glue_table_creation => return Ok(None),
        given => given.clone().unwrap_or_default(),
    };
    for (field, name) in [("TableName", &given.table), ("Catalog", &given.catalog), ("Database", &given.database)] {
        if name.len() > CATALOG_NAME_LEN_MAX {
            return Err(Error::invalid(format!("{field} has more than {CATALOG_NAME_LEN_MAX} characters")));
        }
    }
    let or = |given: String, usual: &dyn Fn() -> String| if given.is_empty() { usual() } else { given };
    Ok(Some(v1::DataCatalog {
        catalog: or(given.catalog, &|| CATALOG.to_owned()),
        database: or(given.database, &|| DATABASE.to_owned()),
        table: or(given.table, &|| format!("{}_{created_s}", group.replace('-', "_").to_ascii_lowercase())),
    }))
}

/// Checks a URI against `(https|s3)://([^/]+)/?(.*)`, and that its path has no empty segment, `.` or `..`: on a local
/// disk it becomes a directory below the warehouse's root, which it must not leave.
///
/// # Errors
/// `Invalid`, naming `what`.
pub fn check_uri(what: &str, uri: &str) -> Result<(), Error> {
    let path = uri.strip_prefix("s3://").or_else(|| uri.strip_prefix("https://"));
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..") && !segment.contains('\\') && !segment.chars().any(char::is_control)
    };
    let fits = path.is_some_and(|path| path.strip_suffix('/').unwrap_or(path).split('/').all(plain));
    if !fits || uri.len() > URI_LEN_MAX + RESOLVED_SUFFIX_LEN_MAX {
        return Err(Error::invalid(format!(
            "{what} must be s3://bucket/prefix without empty, . or .. parts, got {uri:?}"
        )));
    }
    Ok(())
}
