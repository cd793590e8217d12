//! The recorded disk: what is done is what is recorded, faults strike, and power cuts keep what was synced and nothing
//! else for sure.
//!
//! A test runs this binary again, recorded, as the process whose disk it is.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use granary_test_disk::{
    Change, Disk, Fault, Files, Journal, Node, Op, Order, PAGE_BYTES, PowerCut, Shim, errno, note,
};

const DEED: &str = "GRANARY_DISK_TEST_DEED";
const DIR: &str = "GRANARY_DISK_TEST_DIR";

/// The recorded process. As a test of its own it does nothing.
#[test]
fn process() {
    let (Ok(deed), Some(dir)) = (env::var(DEED), env::var_os(DIR)) else { return };
    let dir = PathBuf::from(dir);
    match &deed[..] {
        "everything" => everything(&dir),
        "pages" => pages(&dir),
        "fill" => fill(&dir),
        "sync" => sync(&dir),
        "read" => read(&dir),
        "names" => names(&dir),
        other => panic!("no such deed: {other}"),
    }
}

/// A directory, its disk and the processes over it.
struct World {
    _temp: tempfile::TempDir,
    root: PathBuf,
    shim: Shim,
    disk: Disk,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("temp dir");
        let base = fs::canonicalize(temp.path()).expect("is there");
        let shim = Shim::build(&base).expect("compiles");
        let root = base.join("root");
        fs::create_dir_all(root.join("old/deep")).expect("makes");
        fs::write(root.join("old/deep/file"), b"from before").expect("writes");
        let disk = Disk::new(&shim, &root, &base.join("run")).expect("is taken");
        Self { _temp: temp, root, shim, disk }
    }

    fn start(&self, deed: &str) -> Started {
        let child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "process", "--nocapture", "--test-threads=1"])
            .envs(self.disk.envs())
            .env(DEED, deed)
            .env(DIR, &self.root)
            .stdout(Stdio::null())
            .spawn();
        Started(child.expect("starts"))
    }

    fn run(&self, deed: &str) -> ExitStatus {
        self.start(deed).0.wait().expect("ends")
    }

    fn recorded(&self, deed: &str) -> Journal {
        assert!(self.run(deed).success());
        self.disk.journal().expect("reads")
    }

    fn files(&self) -> Files {
        Files::read(&self.root).expect("reads")
    }
}

/// A process that does not outlive its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn bytes(files: &Files, path: &str) -> Option<Vec<u8>> {
    match files.0.get(Path::new(path))? {
        Node::File(bytes) => Some(bytes.clone()),
        Node::Dir => None,
    }
}

/// Every way of changing files that the standard library has.
fn everything(dir: &Path) {
    let mut file = File::create(dir.join("a")).expect("makes");
    file.write_all(&[1; 10_000]).expect("writes");
    file.write_all_at(&[2; 5_000], 7_000).expect("writes");
    file.seek(SeekFrom::Start(20_000)).expect("seeks");
    assert_eq!(file.write_vectored(&[IoSlice::new(b"two"), IoSlice::new(b"parts")]).expect("writes"), 8);
    let mut other = file.try_clone().expect("copies");
    other.write_all(b"through a copy").expect("writes");
    drop(file);
    other.set_len(20_020).expect("cuts");
    drop(other);
    let mut file = OpenOptions::new().append(true).open(dir.join("a")).expect("opens");
    file.write_all(b"appended").expect("writes");
    file.sync_all().expect("syncs");
    fs::copy(dir.join("a"), dir.join("b")).expect("copies");
    fs::create_dir_all(dir.join("new/deeper")).expect("makes");
    fs::rename(dir.join("b"), dir.join("new/deeper/b")).expect("moves");
    fs::rename(dir.join("new"), dir.join("newer")).expect("moves");
    fs::write(dir.join("newer/../c"), b"c").expect("writes");
    fs::write(dir.join("a"), b"shorter").expect("writes");
    file.write_all(b"after another truncated it").expect("writes");
    env::set_current_dir(dir).expect("goes there");
    fs::write("relative", b"r").expect("writes");
    fs::remove_file("c").expect("removes");
    fs::remove_dir_all("old").expect("removes");
    // A file that has lost its name, and its name in use again.
    let mut nameless = File::create(dir.join("d")).expect("makes");
    fs::remove_file(dir.join("d")).expect("removes");
    fs::write(dir.join("d"), b"second").expect("writes");
    nameless.write_all(b"nobody reads this").expect("writes");
    let appender = || OpenOptions::new().create(true).append(true).open(dir.join("shared")).expect("opens");
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let mut file = appender();
            scope.spawn(move || (0..200).for_each(|turn| file.write_all(&[thread, turn]).expect("writes")));
        }
    });
    // `tempfile` asks the kernel itself, past the C library.
    let mut file = tempfile::NamedTempFile::new_in(dir).expect("makes");
    file.write_all(b"past the library").expect("writes");
    file.persist(dir.join("persisted")).expect("moves");
    note("is not a file").expect("notes");
}

#[test]
fn what_is_done_is_what_is_recorded() {
    let world = World::new();
    let journal = world.recorded("everything");
    assert_eq!(journal.files(journal.len()), world.files());
    assert_eq!(journal.files(0), journal.before);
    assert_eq!(journal.notes(journal.len()).collect::<Vec<_>>(), ["is not a file"]);
    assert!(bytes(&world.files(), "shared").is_some_and(|bytes| bytes.len() == 4 * 200 * 2));
}

/// A file of pages of which the even ones are synced, and one that is removed.
fn pages(dir: &Path) {
    let file = File::create(dir.join("pages")).expect("makes");
    let write = |page: u64| file.write_all_at(&[1; PAGE_BYTES as usize], page * PAGE_BYTES).expect("writes");
    (0..16).step_by(2).for_each(write);
    file.sync_data().expect("syncs");
    note("synced").expect("notes");
    (1..16).step_by(2).for_each(write);
    fs::remove_file(dir.join("old/deep/file")).expect("removes");
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_anything_of_the_rest() {
    let world = World::new();
    let journal = world.recorded("pages");
    let all = journal.len();
    let synced = (0..all).find(|at| journal.notes(*at).count() == 1).expect("is noted");
    let (mut seen, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for order in [Order::Done, Order::Any] {
        for seed in 0..200 {
            let files = PowerCut { order, at: all, seed }.files(&journal);
            let bytes = bytes(&files, "pages").expect("its name was synced with it");
            let there: Vec<_> =
                bytes.chunks(PAGE_BYTES as usize).map(|page| page.iter().all(|byte| *byte == 1)).collect();
            assert!(there.iter().step_by(2).all(|page| *page), "synced: {there:?}");
            if order == Order::Done {
                let odd: Vec<_> = there.iter().skip(1).step_by(2).copied().collect();
                assert!(odd.is_sorted_by(|a, b| a >= b), "a prefix: {odd:?}");
            }
            seen.insert(there);
            removed.insert(!files.0.contains_key(Path::new("old/deep/file")));
            let again = PowerCut { order, at: all, seed }.files(&journal);
            assert_eq!(again, files, "one seed, one state");
        }
    }
    assert!(seen.len() > 20, "many states: {}", seen.len());
    assert!(seen.iter().any(|there| there.windows(3).any(|w| w == [true, false, true])), "holes");
    assert_eq!(removed.len(), 2, "a removal that was not synced may or may not be there");
    // Before the sync has returned, nothing is sure, not even the name.
    let states: BTreeSet<_> = (0..200)
        .map(|seed| PowerCut { order: Order::Any, at: synced - 2, seed }.files(&journal))
        .map(|files| bytes(&files, "pages").map(|bytes| bytes.len()))
        .collect();
    assert!(states.contains(&None) && states.len() > 3, "{states:?}");
}

/// A file that is written anew beside the old one and renamed over it, with its own sync and without the directory's.
fn names(dir: &Path) {
    let file = File::create(dir.join("draft")).and_then(|mut file| file.write_all(b"new").map(|()| file));
    file.and_then(|file| file.sync_all()).expect("syncs");
    fs::rename(dir.join("draft"), dir.join("old/deep/file")).expect("moves");
    note("renamed").expect("notes");
    File::open(dir.join("old/deep")).and_then(|dir| dir.sync_all()).expect("syncs");
}

#[test]
fn names_are_durable_once_their_directory_is_synced() {
    let world = World::new();
    let journal = world.recorded("names");
    let content = |at: usize, seed: u64| {
        let files = PowerCut { order: Order::Any, at, seed }.files(&journal);
        String::from_utf8(bytes(&files, "old/deep/file").expect("old or new")).expect("text")
    };
    let renamed = (0..journal.len()).find(|at| journal.notes(*at).count() == 1).expect("is noted");
    let before: BTreeSet<_> = (0..50).map(|seed| content(renamed, seed)).collect();
    assert_eq!(before, BTreeSet::from(["from before".to_owned(), "new".to_owned()]), "never half a file");
    let after: BTreeSet<_> = (0..50).map(|seed| content(journal.len(), seed)).collect();
    assert_eq!(after, BTreeSet::from(["new".to_owned()]));
}

/// Writes 100 bytes at a time until the disk refuses.
fn fill(dir: &Path) {
    let mut file = File::create(dir.join("filled")).expect("makes");
    let error = (0..1_000).find_map(|_| file.write_all(&[1; 100]).err()).expect("is full");
    fs::write(dir.join("elsewhere"), b"has room").expect("writes");
    fs::write(dir.join("error"), error.raw_os_error().unwrap_or_default().to_string()).expect("writes");
}

#[test]
fn a_disk_fills_up() {
    let world = World::new();
    world.disk.set_faults(&[Fault::space(1_050, "/filled")]).expect("sets");
    let journal = world.recorded("fill");
    let files = world.files();
    assert_eq!(bytes(&files, "filled").expect("made").len(), 1_050, "the last write is cut short");
    assert_eq!(bytes(&files, "error").expect("made"), errno::ENOSPC.to_string().into_bytes());
    assert_eq!(bytes(&files, "elsewhere").expect("made"), b"has room");
    assert_eq!(journal.files(journal.len()), files);
}

/// Three times writes a page and syncs it, and tells how that went.
fn sync(dir: &Path) {
    let file = File::create(dir.join("log")).expect("makes");
    for turn in 0..3_u8 {
        file.write_all_at(&[turn + 1; PAGE_BYTES as usize], u64::from(turn) * PAGE_BYTES).expect("writes");
        let said = match file.sync_all() {
            Ok(()) => "synced".to_owned(),
            Err(error) => error.raw_os_error().unwrap_or_default().to_string(),
        };
        note(&said).expect("notes");
    }
}

#[test]
fn what_struck_is_told_and_nothing_is_recorded_unless_asked_for() {
    let world = World::new();
    let disk = Disk::unrecorded(&world.shim, &world.root, &world.root.with_extension("plain")).expect("is taken");
    disk.set_faults(&[Fault::fail(Op::Sync, errno::EIO, "/log").nth(2), Fault::space(PAGE_BYTES + 7, "/log")])
        .expect("sets");
    let world = World { disk, ..world };
    assert!(!world.run("sync").success(), "its second page does not fit");
    assert_eq!(world.disk.strikes().expect("reads"), ["space write /log"; 2], "cut short, then refused");
    assert!(world.disk.journal().is_err());
    world.disk.set_faults(&[Fault::delay(Op::Sync, 1, "/log")]).expect("sets");
    assert!(world.run("sync").success(), "one process after the other");
    assert_eq!(world.disk.strikes().expect("reads")[2..], ["delay sync /log"; 3]);
}

fn read(dir: &Path) {
    let file = File::open(dir.join("old/deep/file")).expect("opens");
    let told: Vec<_> = (0..3).map(|_| file.read_at(&mut [0; 4], 5).map_err(|error| error.raw_os_error())).collect();
    let whole = fs::read(dir.join("old/deep/file")).map_err(|error| error.raw_os_error());
    note(&format!("{told:?} {:?}", whole.map(|bytes| bytes.len()))).expect("notes");
}

#[test]
fn reads_fail() {
    let world = World::new();
    world.disk.set_faults(&[Fault::fail(Op::Read, errno::EIO, "/old/").nth(2).times(1)]).expect("sets");
    let journal = world.recorded("read");
    assert_eq!(said(&journal), ["[Ok(4), Err(Some(5)), Ok(4)] Ok(11)"]);
    assert_eq!(world.disk.strikes().expect("reads"), ["fail read /old/deep/file"]);
}

fn said(journal: &Journal) -> Vec<&str> {
    journal.notes(journal.len()).collect()
}

#[test]
fn a_failed_sync_covers_nothing_and_the_next_one_does_not_make_up_for_it() {
    let world = World::new();
    world.disk.set_faults(&[Fault::fail(Op::Sync, errno::EIO, "/log").nth(2).times(1)]).expect("sets");
    let journal = world.recorded("sync");
    assert_eq!(said(&journal), ["synced", "5", "synced"]);
    let mut second = BTreeSet::new();
    for seed in 0..50 {
        let files = PowerCut { order: Order::Any, at: journal.len(), seed }.files(&journal);
        let pages = bytes(&files, "log").expect("synced");
        assert_eq!((pages[0], pages[2 * PAGE_BYTES as usize]), (1, 3));
        second.insert(pages[PAGE_BYTES as usize]);
    }
    assert_eq!(second, BTreeSet::from([0, 2]), "what the failed sync was to cover is there or not");
}

#[test]
fn a_process_is_killed_at_an_operation() {
    let world = World::new();
    world.disk.set_faults(&[Fault::kill(Op::Sync, "/log").nth(3)]).expect("sets");
    assert_eq!(world.run("sync").signal(), Some(9));
    let journal = world.disk.journal().expect("reads");
    assert_eq!(said(&journal), ["synced", "synced"]);
    assert_eq!(journal.files(journal.len()), world.files());
    let syncs = journal.records.iter().filter(|record| matches!(record.change, Change::Sync { .. })).count();
    assert_eq!(syncs, 2);
}

#[test]
fn operations_take_longer_or_hang_until_they_are_let_go() -> io::Result<()> {
    let world = World::new();
    world.disk.set_faults(&[Fault::delay(Op::Sync, 100_000, "/log")])?;
    let before = Instant::now();
    assert_eq!(said(&world.recorded("sync")), ["synced"; 3]);
    assert!(before.elapsed() >= Duration::from_millis(300));

    let world = World::new();
    world.disk.set_faults(&[Fault::hang(Op::Sync, "/log")])?;
    let mut child = world.start("sync");
    let deadline = Instant::now() + Duration::from_secs(30);
    let written = |journal: &Journal| journal.records.iter().any(|r| matches!(r.change, Change::Write { .. }));
    while !written(&world.disk.journal()?) {
        assert!(Instant::now() < deadline, "it never came to its write");
        std::thread::yield_now();
    }
    assert!(said(&world.disk.journal()?).is_empty() && child.0.try_wait()?.is_none(), "it hangs");
    world.disk.set_faults(&[])?;
    assert!(child.0.wait()?.success());
    assert_eq!(said(&world.disk.journal()?), ["synced"; 3]);
    Ok(())
}
