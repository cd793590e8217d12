//! The root of the offline store: one object store, one directory or bucket in it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use deltalake_core::DeltaTableBuilder;
use deltalake_core::logstore::{
    LogStore, LogStoreFactory, LogStoreRef, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories,
};
use futures::TryStreamExt;
use granary_platform::Platform;
use granary_types::FeatureGroup;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use url::Url;

use crate::bucket;
use crate::durable::DurableLocal;
use crate::foreign::is_data;
use crate::layout::{bucket_url, table_url};
use crate::{Error, OfflineTable, Options, Settings};

/// Schemes of object stores that a warehouse can be on, beside the local disk.
const BUCKET_SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"];
/// Three requests, each of which may be tried again for 20 seconds; longer is no answer.
const PROBE_TIME: Duration = Duration::from_secs(45);
/// The directory of the objects that [`Warehouse::open`] probes with.
const PROBE_DIRECTORY: &str = "_granary_probe";
/// The directory of [`Warehouse::private`].
const PRIVATE_DIRECTORY: &str = "_granary";

/// The root of the offline store. Cheap to clone.
#[derive(Clone)]
pub struct Warehouse {
    root: Url,
    store: ObjectStoreRef,
    local: bool,
    platform: Platform,
    settings: Settings,
}

impl fmt::Debug for Warehouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warehouse").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}

impl Warehouse {
    /// Opens the warehouse at `url`: `file:///dir` (made if missing), `s3://bucket/prefix`, `gs://`, `az://`.
    ///
    /// Environment variables (`AWS_ACCESS_KEY_ID`, `GOOGLE_...`, `AZURE_...`) configure the store, `options.store` wins
    /// over them. Two conditional puts of one key are made to see that the second is refused.
    ///
    /// # Errors
    /// [`Error::Location`] for a URL that is not understood, [`Error::NoConditionalPut`] for a store on which two
    /// compactors would not be safe, [`Error::ObjectStore`] when it refuses, [`Error::Unreachable`] when it does not
    /// answer.
    pub async fn open(url: &str, options: Options) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Location { location: url.to_owned(), reason };
        let root = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        check_secrets(&root)?;
        let store: ObjectStoreRef = if root.scheme() == "file" {
            let directory = root.to_file_path().map_err(|()| wrong("is not an absolute path".to_owned()))?;
            tokio::fs::create_dir_all(directory).await?;
            Arc::new(DurableLocal::new(options.platform.clone()))
        } else {
            bucket::open(&root, options.store.clone()).map_err(|error| wrong(error.to_string()))?
        };
        Self::over(store, root, options).await
    }

    /// A warehouse below `root` in a store that was made elsewhere: a simulation's, or one that injects faults.
    /// `store` is rooted at the file system or bucket, not at `root`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn over(store: Arc<dyn ObjectStore>, root: Url, options: Options) -> Result<Self, Error> {
        register_schemes();
        let local = root.scheme() == "file";
        let warehouse = Self { root, store, local, platform: options.platform, settings: options.settings };
        let platform = warehouse.platform.clone();
        tokio::select! {
            probed = warehouse.probe() => probed?,
            () = platform.sleep(PROBE_TIME) => {
                let location = warehouse.root.to_string();
                return Err(Error::Unreachable { location, seconds: PROBE_TIME.as_secs() });
            }
        }
        Ok(warehouse)
    }

    /// Where it is.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// Where a group's table is.
    ///
    /// # Errors
    /// [`Error::NoOfflineStore`], or [`Error::Location`] when the group's location cannot be used.
    pub fn table_url(&self, group: &FeatureGroup) -> Result<Url, Error> {
        table_url(&self.root, group)
    }

    /// The object store under it, whose root is the file system's or the bucket's and not [`Self::root`].
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Whether it is on a local disk.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Whether it is in a bucket, where others find it without Granary.
    pub(crate) fn is_bucket(&self) -> bool {
        BUCKET_SCHEMES.contains(&self.root.scheme())
    }

    /// The directory in [`Self::object_store`] of what `s3://bucket/` names, under the rule that places tables.
    ///
    /// # Errors
    /// [`Error::Location`] for a name that cannot be one segment of a path.
    pub fn bucket(&self, bucket: &str) -> Result<Path, Error> {
        let wrong = |reason: String| Error::Location { location: format!("s3://{bucket}"), reason };
        if bucket.is_empty() || bucket.contains('/') || matches!(bucket, "." | "..") {
            return Err(wrong("is no bucket's name".to_owned()));
        }
        let url = bucket_url(&self.root, "s3", bucket).ok_or_else(|| wrong("cannot be placed".to_owned()))?;
        Path::from_url_path(url.path()).map_err(|error| wrong(error.to_string()))
    }

    /// The directory in [`Self::object_store`] of objects that are neither rows nor anybody's files: no bucket has
    /// this name.
    ///
    /// # Errors
    /// [`Error::Location`] when the root is not one of a path.
    pub fn private(&self) -> Result<Path, Error> {
        let wrong = |error: object_store::path::Error| Error::Location {
            location: self.root.to_string(),
            reason: error.to_string(),
        };
        Ok(Path::from_url_path(self.root.path()).map_err(wrong)?.join(PRIVATE_DIRECTORY))
    }

    /// Opens a group's table at its newest version. Creates it, or adds the columns it lacks, where needed.
    ///
    /// # Errors
    /// [`Error::NoOfflineStore`], [`Error::Location`], [`Error::TableMismatch`] when another group's table stands
    /// there, [`Error::Table`].
    pub async fn table(&self, group: &FeatureGroup) -> Result<OfflineTable, Error> {
        OfflineTable::open(group, self.log_store(group)?, self).await
    }

    /// Opens a group's table at its newest version, if there is one; creates nothing. A table without a log is none.
    ///
    /// # Errors
    /// As [`Self::table`].
    pub async fn existing_table(&self, group: &FeatureGroup) -> Result<Option<OfflineTable>, Error> {
        OfflineTable::open_existing(group, self.log_store(group)?, self).await
    }

    /// Whether there are Parquet files at the place of a group's table.
    ///
    /// # Errors
    /// [`Error::NoOfflineStore`], [`Error::Location`], [`Error::ObjectStore`].
    pub async fn has_files(&self, group: &FeatureGroup) -> Result<bool, Error> {
        let store = self.log_store(group)?.object_store(None);
        let mut listing = store.list(None);
        while let Some(meta) = listing.try_next().await? {
            if is_data(meta.location.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn log_store(&self, group: &FeatureGroup) -> Result<LogStoreRef, Error> {
        let builder = DeltaTableBuilder::from_url(self.table_url(group)?)?;
        Ok(builder.with_storage_backend(self.store.clone(), self.root.clone()).build_storage()?)
    }

    pub(crate) fn store(&self) -> &ObjectStoreRef {
        &self.store
    }

    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The directory of a URL in this warehouse, where it is on the local disk.
    pub(crate) fn local_directory(&self, url: &Url) -> Option<PathBuf> {
        self.local.then(|| url.to_file_path().ok()).flatten()
    }

    /// Refuses a store that lets two conditional puts of one key succeed: both of two racing commits would.
    async fn probe(&self) -> Result<(), Error> {
        let wrong = |error: object_store::path::Error| Error::Location {
            location: self.root.to_string(),
            reason: error.to_string(),
        };
        let prefix = Path::from_url_path(self.root.path()).map_err(wrong)?;
        let key = prefix.join(PROBE_DIRECTORY).join(format!("{:032x}", self.platform.fresh_id()));
        let put = || self.store.put_opts(&key, PutPayload::from_static(b"probe"), PutMode::Create.into());
        put().await?;
        let second = put().await;
        // Litter is harmless; not being allowed to delete must not keep the process from starting.
        if let Err(error) = self.store.delete(&key).await {
            tracing::debug!(%error, %key, "probe object stays");
        }
        match second {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(Error::NoConditionalPut { location: self.root.to_string() }),
        }
    }
}

/// Refuses a URL with credentials, which would stand in logs, errors and metadata. The container of Azure's
/// `abfss://container@account` is none.
fn check_secrets(root: &Url) -> Result<(), Error> {
    let names_container = matches!(root.scheme(), "abfs" | "abfss");
    if root.password().is_none() && (root.username().is_empty() || names_container) {
        return Ok(());
    }
    let location = format!("{}://{}{}", root.scheme(), root.host_str().unwrap_or_default(), root.path());
    let reason = "holds credentials, which belong into the environment or the configuration".to_owned();
    Err(Error::Location { location, reason })
}

/// Every store's log is written by conditional puts; nothing of `deltalake-aws` and its like is needed.
#[derive(Debug)]
struct ConditionalPutLog;

impl LogStoreFactory for ConditionalPutLog {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> deltalake_core::DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed_store, root_store, location, options))
    }
}

fn register_schemes() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        for scheme in BUCKET_SCHEMES {
            let url = Url::parse(&format!("{scheme}://")).expect("a scheme makes a URL");
            logstore_factories().insert(url, Arc::new(ConditionalPutLog));
        }
    });
}
