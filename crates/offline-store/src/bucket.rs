//! A bucket of S3, Google Cloud Storage or Azure as an object store: where its options come from, how long a request
//! may be tried.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, Error, ObjectStore, ObjectStoreScheme, Result, RetryConfig};
use url::Url;

/// Variables of the environment that configure a bucket begin so. The names that options go by are wider: a bare
/// `TOKEN` or `BUCKET` in the environment means something else.
const PREFIXES: [&str; 3] = ["aws_", "google_", "azure_"];

/// Opens the bucket that `url` names. Makes no request.
///
/// # Errors
/// When the URL or an option is wrong.
pub(crate) fn open(url: &Url, options: BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let environment = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
    let environment = environment.filter(|(key, _)| PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
    let options: Vec<(String, String)> = environment.chain(options).collect();
    macro_rules! built {
        ($builder:ty) => {
            Arc::new(
                options
                    .into_iter()
                    .fold(<$builder>::new().with_url(url.as_str()), |builder, (key, value)| match key.parse() {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    })
                    .with_retry(retry())
                    .build()?,
            )
        };
    }
    Ok(match ObjectStoreScheme::parse(url)?.0 {
        ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => built!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder),
        _ => return Err(Error::NotSupported { source: "neither a directory nor a bucket that is known".into() }),
    })
}

/// Enough for a hiccup. An outage is told within seconds to the log, the metrics and `granary status`; the compactor
/// begins its round anew after it.
fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(20) }
}
