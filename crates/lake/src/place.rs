//! Where `s3://bucket/key` is in the warehouse's object store.
//!
//! A bucket is where the offline store puts it: the warehouse's own bucket, or a directory in the warehouse. A key's
//! segments are directories and a file. A segment that a file system would take for something else is written with
//! percent signs, so that every key is one file below its bucket and comes back as it was:
//!
//! | segment | written |
//! |---|---|
//! | `.` and `..` | `%2E`, `%2E%2E` |
//! | a control character, a backslash | `%` and two hexadecimal digits |
//! | a `#` that only digits follow, which marks unfinished files | `%23` |
//! | a `%` before two digits that would be read as one of these | `%25` |
//! | the empty one after a last slash | `%` |

use std::sync::Arc;

use granary_offline_store::Warehouse;
use object_store::path::Path;
use thiserror::Error as ThisError;

/// The longest key, in bytes, as on S3.
const KEY_BYTES_MAX: usize = 1_024;
/// The longest name of a file on the file systems there are.
const SEGMENT_BYTES_MAX: usize = 255;
/// On a local disk a name has more behind it for a while: `~note` where a note is about the object, `#` and up to 39
/// digits until the file is whole.
const LOCAL_SEGMENT_BYTES_MAX: usize = SEGMENT_BYTES_MAX - "~note".len() - 40;

/// Why a bucket or key has no place.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub(crate) enum NoPlace {
    #[error("The specified bucket is not valid.")]
    Bucket,
    #[error("Your key is too long")]
    TooLong,
    #[error("a key has no empty parts: {0:?} begins with a slash or has two in a row")]
    EmptySegment(String),
    #[error("{0:?} is not s3://bucket/key")]
    NoUri(String),
    #[error("{0:?} is one of Granary's own objects, or holds them")]
    Private(String),
    #[error("tables and results are in the object store of the warehouse, which is bucket {0:?}")]
    Elsewhere(String),
}

/// Buckets and keys in one warehouse.
#[derive(Debug)]
pub(crate) struct Places {
    warehouse: Arc<Warehouse>,
    /// Directories that are nobody's, where the warehouse is itself a bucket.
    private: [Path; 2],
    /// The longest part of a path, in bytes.
    segment_bytes_max: usize,
}

/// A bucket and a key, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uri {
    pub(crate) bucket: String,
    pub(crate) key: String,
}

impl Uri {
    pub(crate) fn parse(text: &str) -> Result<Self, NoPlace> {
        let wrong = || NoPlace::NoUri(text.to_owned());
        let rest =
            ["s3://", "s3a://", "s3n://"].iter().find_map(|scheme| text.strip_prefix(scheme)).ok_or_else(wrong)?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() { Err(wrong()) } else { Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() }) }
    }
}

impl Places {
    pub(crate) fn new(warehouse: Arc<Warehouse>) -> Result<Self, granary_offline_store::Error> {
        let documents = warehouse.private()?;
        // What a warehouse is probed with stands beside them.
        let probes = Path::from(format!("{documents}_probe"));
        let segment_bytes_max = if warehouse.is_local() { LOCAL_SEGMENT_BYTES_MAX } else { SEGMENT_BYTES_MAX };
        Ok(Self { private: [documents, probes], segment_bytes_max, warehouse })
    }

    pub(crate) fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    /// A bucket's directory.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<Path, NoPlace> {
        if !is_bucket_name(bucket) {
            return Err(NoPlace::Bucket);
        }
        self.warehouse.bucket(bucket).map_err(|_| NoPlace::Bucket)
    }

    /// An object's file.
    pub(crate) fn object(&self, bucket: &str, key: &str) -> Result<Path, NoPlace> {
        let bucket = self.bucket(bucket)?;
        if key.is_empty() {
            return Err(NoPlace::EmptySegment(String::new()));
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(NoPlace::TooLong);
        }
        let folder = key.ends_with('/');
        let path = self.below(&bucket, key.strip_suffix('/').unwrap_or(key))?;
        if self.is_private(&path) {
            return Err(NoPlace::Private(key.to_owned()));
        }
        Ok(if folder { join(&path, "%") } else { path })
    }

    fn is_private(&self, path: &Path) -> bool {
        self.private.iter().any(|private| path.prefix_matches(private))
    }

    /// The directory that all keys with `prefix` are in, as far as it goes: up to its last slash.
    pub(crate) fn directory(&self, bucket: &str, prefix: &str) -> Result<Path, NoPlace> {
        let bucket = self.bucket(bucket)?;
        match prefix.rsplit_once('/') {
            Some((directory, _)) => self.below(&bucket, directory),
            None => Ok(bucket),
        }
    }

    fn below(&self, bucket: &Path, key: &str) -> Result<Path, NoPlace> {
        if key.len() > KEY_BYTES_MAX {
            return Err(NoPlace::TooLong);
        }
        key.split('/').try_fold(bucket.clone(), |path, segment| {
            let encoded = encode(segment);
            match encoded.len() {
                0 => Err(NoPlace::EmptySegment(key.to_owned())),
                len if len <= self.segment_bytes_max => Ok(join(&path, &encoded)),
                _ => Err(NoPlace::TooLong),
            }
        })
    }

    /// The key of a file in a bucket; `None` for what is nobody's object.
    pub(crate) fn key_of(&self, bucket: &Path, path: &Path) -> Option<String> {
        // The store hides most of what is not whole; not what has another `#` before the one of its digits.
        if self.is_private(path) || path.filename().is_some_and(is_unfinished) {
            return None;
        }
        let segments: Vec<String> = path.prefix_match(bucket)?.map(|part| decode(part.as_ref())).collect();
        match segments.split_last() {
            Some((last, folder)) if last == "%" => Some(format!("{}/", folder.join("/"))),
            Some(_) => Some(segments.join("/")),
            None => None,
        }
    }

    /// The directory of a table's location, as the query service takes it. All files below are the table's, so nothing of
    /// Granary's own may be there.
    pub(crate) fn table_directory(&self, location: &str) -> Result<String, NoPlace> {
        let uri = Uri::parse(location)?;
        let key = if uri.key.is_empty() || uri.key.ends_with('/') { uri.key } else { format!("{}/", uri.key) };
        let directory = self.directory(&uri.bucket, &key)?;
        if self.is_private(&directory) || self.private.iter().any(|private| private.prefix_matches(&directory)) {
            return Err(NoPlace::Private(location.to_owned()));
        }
        Ok(directory.to_string())
    }

    /// Refuses a bucket that the caller's own S3 does not lead to: where Granary's is off, objects are read from the
    /// object store itself, and there only the warehouse's bucket is the one of its name.
    pub(crate) fn check_reachable(&self, bucket: &str, s3_enabled: bool) -> Result<(), NoPlace> {
        let root = self.warehouse.root();
        let own = root.host_str().filter(|_| !s3_enabled && root.scheme() == "s3");
        match own {
            Some(own) if own != bucket => Err(NoPlace::Elsewhere(own.to_owned())),
            _ => Ok(()),
        }
    }
}

/// Letters, digits, `.`, `-` and `_`, as buckets could be called once; never one of our own directories.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (3..=255).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte))
        && !name.contains("..")
}

fn join(path: &Path, segment: &str) -> Path {
    let text = if path.as_ref().is_empty() { segment.to_owned() } else { format!("{path}/{segment}") };
    Path::parse(text).expect("a segment that was encoded is one of a path")
}

/// Whether a byte is written as `%` and its digits somewhere.
fn is_special(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'%' | b'.' | b'\\' | b'#')
}

/// The byte that `%XY` at the beginning of `text` stands for, if it is one that is written so.
fn escape_at(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digits = [*high, *low];
    let digit = |digit: u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit);
    if !digits.iter().all(|byte| digit(*byte)) {
        return None;
    }
    let byte = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
    is_special(byte).then_some(byte)
}

/// Whether a file is called as one that is not whole yet: no key is written so.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

fn encode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let dots = matches!(segment, "." | "..");
    let unfinished = segment.rfind('#').filter(|at| bytes[at + 1..].iter().all(u8::is_ascii_digit));
    let mut out = String::with_capacity(segment.len());
    for (at, c) in segment.char_indices() {
        let written = dots
            || c.is_ascii_control()
            || c == '\\'
            || unfinished == Some(at)
            || (c == '%' && (escape_at(&bytes[at..]).is_some() || segment == "%"));
        if written {
            out.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

fn decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape_at(&bytes[at..]) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use granary_offline_store::Options;
    use object_store::memory::InMemory;
    use proptest::prelude::*;

    use super::*;

    async fn places(root: &str) -> Places {
        let root = root.parse().expect("a URL");
        let warehouse = Warehouse::over(Arc::new(InMemory::new()), root, Options::default()).await;
        Places::new(Arc::new(warehouse.expect("a warehouse"))).expect("places")
    }

    #[tokio::test]
    async fn a_tables_directory_holds_nothing_of_granarys() {
        for (root, bucket) in [("s3://lake", "lake"), ("s3://lake/deep/er", "lake")] {
            let places = places(root).await;
            let own = root.strip_prefix("s3://lake").expect("below it").trim_start_matches('/');
            let at = |key: &str| places.table_directory(&format!("s3://{bucket}/{key}"));
            let below = |name: &str| if own.is_empty() { name.to_owned() } else { format!("{own}/{name}") };
            for wrong in
                [String::new(), own.to_owned(), below("_granary"), below("_granary/athena/"), below("_granary_probe")]
            {
                assert!(matches!(at(&wrong), Err(NoPlace::Private(_))), "{root} {wrong:?}");
            }
            assert_eq!(at("t/x").as_deref(), Ok("t/x"));
            assert_eq!(places.table_directory("s3://other").as_deref(), Ok(below("other").as_str()));
        }
    }

    #[tokio::test]
    async fn without_granarys_s3_only_the_warehouses_bucket_is_reached() {
        let remote = places("s3://lake/x").await;
        assert_eq!(remote.check_reachable("lake", false), Ok(()));
        assert_eq!(remote.check_reachable("other", false), Err(NoPlace::Elsewhere("lake".to_owned())));
        assert_eq!(remote.check_reachable("other", true), Ok(()));
        assert_eq!(places("file:///lake").await.check_reachable("other", false), Ok(()));
    }

    #[tokio::test]
    async fn keys_have_bounds_that_leave_room_for_what_is_added() {
        let local = places("file:///lake").await;
        let of = |len: usize| local.object("bucket", &"a".repeat(len)).map(drop);
        assert_eq!((of(210), of(211)), (Ok(()), Err(NoPlace::TooLong)));
        let remote = places("s3://lake").await;
        let of = |key: String| remote.object("bucket", &key).map(drop);
        assert_eq!((of("a".repeat(255)), of("a".repeat(256))), (Ok(()), Err(NoPlace::TooLong)));
        // 1,024 and 1,025 bytes.
        assert_eq!(of("abc/".repeat(255) + "abcd"), Ok(()));
        assert_eq!(of("abc/".repeat(256)), Ok(()));
        assert_eq!(of("abc/".repeat(256) + "a"), Err(NoPlace::TooLong));
    }

    #[tokio::test]
    async fn files_that_are_not_whole_are_no_keys() {
        let places = places("file:///lake").await;
        let bucket = places.bucket("bucket").expect("a bucket");
        for key in ["a#b", "a#b#12", "a#12", "a#", "#7", "a#b#12c"] {
            let path = places.object("bucket", key).expect("a place");
            assert_eq!(places.key_of(&bucket, &path).as_deref(), Some(key));
            let staged = Path::parse(format!("{path}#123456")).expect("a path");
            assert_eq!(places.key_of(&bucket, &staged), None, "{staged}");
        }
    }

    #[test]
    fn what_could_leave_its_bucket_is_written_otherwise() {
        assert_eq!(encode(".."), "%2E%2E");
        assert_eq!(encode("a\\b\0"), "a%5Cb%00");
        assert_eq!(encode("part#12"), "part%2312");
        assert_eq!(encode("part#12a"), "part#12a");
        assert_eq!(encode("100%"), "100%");
        assert_eq!(encode("x%3Ay"), "x%3Ay");
        assert_eq!(encode("x%2E"), "x%252E");
        assert_eq!(encode("%"), "%25");
    }

    #[test]
    fn bucket_names_are_no_paths() {
        for name in ["abc", "my-bucket.1", "Old_Bucket", &"a".repeat(255)] {
            assert!(is_bucket_name(name), "{name}");
        }
        for name in ["", "ab", "..", "a..b", "_granary", "a/b", "-ab", "ab-", "a b", "a\0b", &"a".repeat(256)] {
            assert!(!is_bucket_name(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn segments_come_back(segment in "[ -~\u{0}-\u{1f}%.#0-9A-F\\\\é]{1,40}") {
            prop_assume!(!segment.contains('/'));
            let encoded = encode(&segment);
            prop_assert_eq!(decode(&encoded), segment);
            prop_assert!(Path::parse(&encoded).is_ok());
            prop_assert!(encoded != "." && encoded != ".." && encoded != "%");
            prop_assert!(encoded.bytes().all(|byte| !byte.is_ascii_control() && byte != b'\\'));
        }
    }
}
