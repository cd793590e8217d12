//! What feature groups' tables are made of: it can be read, never written over or deleted.
//!
//! | below the table's directory | |
//! |---|---|
//! | `_delta_log/…`; for Iceberg `metadata/…` beside it | the table's alone |
//! | `metadata/<number>-<uuid>.metadata.json` | anybody's: what Iceberg's clients propose, and the table never names |
//! | Parquet files that the compactor wrote, or that the table names | stay as they are |
//! | Parquet files that are not there yet | may be put, as other writers do (contract 4.5), and become the table's |
//! | all else, and what is hidden by `_` or `.` | anybody's |

use granary_offline_store::{is_data, is_file_name, is_proposal};
use granary_types::FeatureGroup;
use object_store::path::Path;

use super::{S3, S3Error};

/// Whose an object is, as far as its path tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Anybody,
    /// The table's alone, whether it is there or not.
    Table,
    /// The table's where it is there.
    History,
    /// The table's where the table names it, by this path below the table.
    Data(String),
}

/// Whose the object at `path` is, beside or below a table at `table`.
fn owner(table: &Path, iceberg: bool, local: bool, path: &Path) -> Owner {
    // On a local disk a file would stand where the table's directory is to be.
    if path == table || (local && table.prefix_matches(path)) {
        return Owner::Table;
    }
    if iceberg && metadata(table).is_some_and(|metadata| path.prefix_matches(&metadata)) {
        return if path.filename().is_some_and(is_proposal) { Owner::Anybody } else { Owner::Table };
    }
    let Some(rest) = path.prefix_match(table) else { return Owner::Anybody };
    let rest: Vec<String> = rest.map(|part| part.as_ref().to_owned()).collect();
    let below = rest.join("/");
    match rest.as_slice() {
        [first, ..] if first == "_delta_log" => Owner::Table,
        _ if !is_data(&below) => Owner::Anybody,
        [.., name] if is_file_name(name) => Owner::History,
        _ => Owner::Data(below),
    }
}

/// The directory of an Iceberg table's metadata, which is beside that of its data.
fn metadata(table: &Path) -> Option<Path> {
    let mut parts: Vec<_> = table.parts().collect();
    parts.pop()?;
    Some(Path::from_iter(parts).join("metadata"))
}

impl S3 {
    /// Refuses to write over or delete what a feature group's table is made of.
    ///
    /// # Errors
    /// `AccessDenied`; what the store under it or the table fails with.
    pub(super) async fn check_writable(&self, path: &Path, deleting: bool) -> Result<(), S3Error> {
        let catalog = self.query.catalog();
        let warehouse = self.places.warehouse();
        let found = catalog.groups().find_map(|group| {
            let url = warehouse.table_url(group).ok()?;
            let table = Path::from_url_path(url.path()).ok()?;
            let owner = owner(&table, group.is_iceberg(), warehouse.is_local(), path);
            (owner != Owner::Anybody).then_some((group, owner))
        });
        let Some((group, owner)) = found else { return Ok(()) };
        let owned = match owner {
            Owner::Anybody => false,
            Owner::Table => true,
            // A copy of SageMaker's history has such names too, and may be put where nothing is.
            Owner::History => deleting || self.exists(path).await?,
            Owner::Data(below) => self.exists(path).await? && self.is_named(group, &below).await?,
        };
        if owned {
            return Err(S3Error::new(
                403,
                "AccessDenied",
                format!(
                    "{:?} belongs to the history of feature group {:?}, which S3 calls do not change",
                    path.filename().unwrap_or_default(),
                    group.name
                ),
            ));
        }
        Ok(())
    }

    /// Whether a group's table names a file, in its newest version.
    async fn is_named(&self, group: &FeatureGroup, below: &str) -> Result<bool, S3Error> {
        let failed = |error: granary_offline_store::Error| {
            tracing::warn!(%error, group = group.name, "cannot tell which files are a table's");
            S3Error::new(500, "InternalError", error.to_string())
        };
        match self.places.warehouse().existing_table(group).await.map_err(failed)? {
            Some(table) => table.names_file(below).map_err(failed),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_table_is_made_of_is_its_own() {
        let table = Path::from("lake/bucket/prefix/fg/data");
        let of = |iceberg, path: &str| owner(&table, iceberg, true, &Path::from(path));
        for own in ["_delta_log/0.json", "_delta_log", "_delta_log/x/y.parquet"] {
            assert_eq!(of(false, &format!("{table}/{own}")), Owner::Table, "{own}");
        }
        let history = format!("{table}/year=2024/20240131T083000Z_0123456789abcdef.parquet");
        assert_eq!(of(false, &history), Owner::History);
        assert_eq!(
            of(false, &format!("{table}/year=2024/part-1.parquet")),
            Owner::Data("year=2024/part-1.parquet".to_owned())
        );
        for free in
            ["data/_temporary/0/part-1.parquet", "data/.x.parquet", "data/notes.txt", "metadata/v1.metadata.json"]
        {
            assert_eq!(of(false, &format!("lake/bucket/prefix/fg/{free}")), Owner::Anybody, "{free}");
        }
        for own in ["v1.metadata.json", "version-hint.text", "manifest-1-x.avro", ""] {
            assert_eq!(of(true, &format!("lake/bucket/prefix/fg/metadata/{own}")), Owner::Table, "{own}");
        }
        let proposed = "metadata/00000-0f6ad1a9-5a3e-4f5e-8b7e-0a6a4c3f2d1b.metadata.json";
        assert_eq!(of(true, &format!("lake/bucket/prefix/fg/{proposed}")), Owner::Anybody);
        assert_eq!(of(true, "lake/bucket/prefix/fg/metadata2/x"), Owner::Anybody);
    }

    #[test]
    fn no_file_stands_where_a_tables_directory_is_to_be() {
        let table = Path::from("lake/bucket/prefix");
        for path in ["lake/bucket/prefix", "lake/bucket"] {
            assert_eq!(owner(&table, false, true, &Path::from(path)), Owner::Table, "{path}");
        }
        assert_eq!(owner(&table, false, false, &Path::from("lake/bucket")), Owner::Anybody);
        assert_eq!(owner(&table, false, true, &Path::from("lake/bucket/prefix2")), Owner::Anybody);
    }
}
