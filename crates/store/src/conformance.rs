//! The one suite that every engine passes. Test support: it panics where an engine breaks the port's promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::{Engine, Tree};

/// Larger than the largest record with its row's overhead.
const LARGE_VALUE_LEN: usize = 350 * 1_024 + 4_096;

/// Runs the suite. `open` gives a new empty engine; `reopen` closes one and opens what it held, as the next process
/// would.
///
/// # Panics
/// Where the engine does not conform.
pub fn run(open: &dyn Fn() -> Arc<dyn Engine>, reopen: &dyn Fn(Arc<dyn Engine>) -> Arc<dyn Engine>) {
    for case in [
        empty_trees_are_empty,
        puts_replace_and_removes_remove,
        scans_go_by_key_without_the_marker,
        scans_longer_than_a_chunk_are_whole,
        scans_within_a_prefix_end_with_it,
        markers_stand_apart_from_pairs,
        clear_empties_one_tree,
        dropped_trees_are_empty_when_opened_again,
        large_values_come_back,
        handles_of_one_name_are_one_tree,
        readers_read_while_a_writer_writes,
    ] {
        case(&*open());
    }
    a_clean_close_keeps_everything(open(), reopen);
}

fn tree(engine: &dyn Engine, name: &str) -> Arc<dyn Tree> {
    engine.tree(name).expect("tree opens")
}

fn write(tree: &dyn Tree, pairs: &[(&[u8], Option<&[u8]>)], marker: &[u8]) {
    let owned =
        |(key, value): &(&[u8], Option<&[u8]>)| (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
    tree.write(&mut pairs.iter().map(owned), marker).expect("tree writes");
}

fn get(tree: &dyn Tree, key: &[u8]) -> Option<Bytes> {
    tree.get(key).expect("tree reads")
}

fn scan(tree: &dyn Tree, from: &[u8]) -> Vec<(Bytes, Bytes)> {
    tree.scan(from).collect::<Result<_, _>>().expect("tree scans")
}

fn keys(tree: &dyn Tree, from: &[u8]) -> Vec<Bytes> {
    scan(tree, from).into_iter().map(|(key, _)| key).collect()
}

fn marker(tree: &dyn Tree) -> Option<Bytes> {
    tree.marker().expect("tree reads its marker")
}

fn empty_trees_are_empty(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    assert_eq!(get(&*tree, b"k"), None);
    assert_eq!(marker(&*tree), None);
    assert!(scan(&*tree, b"").is_empty());
    tree.clear().expect("an empty tree clears");
    engine.drop_tree("never opened").expect("dropping nothing is no error");
}

fn puts_replace_and_removes_remove(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    write(&*tree, &[(b"a", Some(b"1")), (b"b", Some(b"")), (b"c", Some(b"3"))], b"m1");
    write(&*tree, &[(b"a", Some(b"10")), (b"c", None), (b"d", None)], b"m2");
    assert_eq!(get(&*tree, b"a").as_deref(), Some(&b"10"[..]));
    assert_eq!(get(&*tree, b"b").as_deref(), Some(&b""[..]), "an empty value is a value");
    assert_eq!(get(&*tree, b"c"), None);
    assert_eq!(get(&*tree, b"d"), None);
    assert_eq!(keys(&*tree, b""), [&b"a"[..], b"b"]);
}

fn scans_go_by_key_without_the_marker(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    let sorted: [&[u8]; 7] = [b"\0", b"\0\0", b"\0\x01", b"\x0f\xff\xff", b"\x10", b"a", b"\xfe\xff\xff\xff"];
    let pairs: Vec<_> = sorted.iter().map(|key| (*key, Some(*key))).collect();
    write(&*tree, &pairs, b"m");
    assert_eq!(keys(&*tree, b""), sorted);
    for (index, from) in sorted.iter().enumerate() {
        assert_eq!(keys(&*tree, from), sorted[index..], "from a key that is there: {from:?}");
    }
    assert_eq!(keys(&*tree, b"\x0f"), sorted[3..], "from between two keys");
    assert!(keys(&*tree, b"\xfe\xff\xff\xff\0").is_empty(), "from after the last");
    assert!(scan(&*tree, b"").iter().all(|(key, value)| key == value));
}

fn scans_longer_than_a_chunk_are_whole(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    let count = 3_000_u32;
    let pair = |number: u32| (Bytes::copy_from_slice(&number.to_be_bytes()), Some(Bytes::from(vec![7; 700])));
    tree.write(&mut (0..count).map(pair), b"m").expect("tree writes");
    let expected: Vec<_> = (0..count).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(keys(&*tree, b""), expected);
    assert_eq!(tree.scan(&2_990_u32.to_be_bytes()).count(), 10);
}

fn scans_within_a_prefix_end_with_it(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    let key = |prefix: u8, number: u16| [&[prefix, 0xff][..], &number.to_be_bytes()].concat();
    let keys = (1..=3).flat_map(|prefix| (0..400).map(move |number| key(prefix, number)));
    tree.write(&mut keys.map(|key| (Bytes::from(key.clone()), Some(key.into()))), b"m").expect("tree writes");
    let within = |from: &[u8], prefix_len| -> Vec<Bytes> {
        tree.scan_within(from, prefix_len).map(|pair| pair.expect("tree scans").0).collect()
    };
    for (from, count) in [(0, 400), (1, 399), (384, 16), (399, 1), (400, 0)] {
        let expected: Vec<_> = (from..from + count).map(|number| key(2, number)).collect();
        assert_eq!(within(&key(2, from), 2), expected, "from {from}");
    }
    assert_eq!(within(&[2], 1).len(), 400);
    assert_eq!(within(&[4], 1), Vec::<Bytes>::new());
    assert_eq!(within(&key(3, 390), 0).len(), 10);
}

fn markers_stand_apart_from_pairs(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    write(&*tree, &[], b"only a marker");
    assert_eq!(marker(&*tree).as_deref(), Some(&b"only a marker"[..]));
    assert!(scan(&*tree, b"").is_empty());
    write(&*tree, &[(b"k", Some(b"v"))], b"");
    assert_eq!(marker(&*tree).as_deref(), Some(&b""[..]), "an empty marker is a marker");
}

fn clear_empties_one_tree(engine: &dyn Engine) {
    let (a, b) = (tree(engine, "a"), tree(engine, "b"));
    write(&*a, &[(b"k", Some(b"of a"))], b"ma");
    write(&*b, &[(b"k", Some(b"of b"))], b"mb");
    a.clear().expect("tree clears");
    assert_eq!((get(&*a, b"k"), marker(&*a)), (None, None));
    assert!(scan(&*a, b"").is_empty());
    assert_eq!(get(&*b, b"k").as_deref(), Some(&b"of b"[..]));
    assert_eq!(marker(&*b).as_deref(), Some(&b"mb"[..]));
    write(&*a, &[(b"k", Some(b"again"))], b"ma2");
    assert_eq!(get(&*a, b"k").as_deref(), Some(&b"again"[..]));
}

fn dropped_trees_are_empty_when_opened_again(engine: &dyn Engine) {
    let b = tree(engine, "b");
    write(&*b, &[(b"k", Some(b"of b"))], b"mb");
    let a = tree(engine, "a");
    write(&*a, &[(b"k", Some(b"of a"))], b"ma");
    drop(a);
    engine.drop_tree("a").expect("tree drops");
    let a = tree(engine, "a");
    assert_eq!((get(&*a, b"k"), marker(&*a)), (None, None));
    write(&*a, &[(b"k", Some(b"again"))], b"ma2");
    assert_eq!(get(&*a, b"k").as_deref(), Some(&b"again"[..]));
    assert_eq!(get(&*b, b"k").as_deref(), Some(&b"of b"[..]));
}

fn large_values_come_back(engine: &dyn Engine) {
    let tree = tree(engine, "a");
    let large = |fill: u8| Bytes::from(vec![fill; LARGE_VALUE_LEN]);
    let key = |number: u8| Bytes::from(vec![number]);
    tree.write(&mut (0..8).map(|number| (key(number), Some(large(number)))), b"m").expect("tree writes");
    tree.write(&mut (0..8).step_by(2).map(|number| (key(number), Some(large(number + 100)))), b"m")
        .expect("tree overwrites");
    let expected = |number: u8| large(if number.is_multiple_of(2) { number + 100 } else { number });
    assert!((0..8).all(|number| get(&*tree, &[number]) == Some(expected(number))));
    assert!(scan(&*tree, b"").iter().all(|(key, value)| *value == expected(key[0])));
}

fn handles_of_one_name_are_one_tree(engine: &dyn Engine) {
    let (one, other) = (tree(engine, "a"), tree(engine, "a"));
    write(&*one, &[(b"k", Some(b"v"))], b"m");
    assert_eq!(get(&*other, b"k").as_deref(), Some(&b"v"[..]));
    other.clear().expect("tree clears");
    assert_eq!(get(&*one, b"k"), None);
    write(&*one, &[(b"k", Some(b"w"))], b"m");
    assert_eq!(get(&*other, b"k").as_deref(), Some(&b"w"[..]));
}

/// A value that says its round and can be seen to be whole.
fn of_round(round: u64) -> Bytes {
    round.to_be_bytes().repeat(50).into()
}

fn round_of(value: &[u8]) -> u64 {
    let round = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
    assert_eq!(of_round(round), value, "a value is whole");
    round
}

fn readers_read_while_a_writer_writes(engine: &dyn Engine) {
    const KEYS: u32 = 500;
    const ROUNDS: u64 = 40;
    let tree = tree(engine, "a");
    let write_round = |round: u64| {
        let pair = |number: u32| (Bytes::copy_from_slice(&number.to_be_bytes()), Some(of_round(round)));
        tree.write(&mut (0..KEYS).map(pair), &round.to_be_bytes()).expect("tree writes");
    };
    write_round(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for offset in [0, 3] {
            let (tree, done) = (&tree, &done);
            scope.spawn(move || {
                let mut seen = 0;
                while !done.load(Ordering::Acquire) {
                    let marked = marker(&**tree)
                        .map_or(0, |marker| u64::from_be_bytes(marker[..].try_into().expect("a marker is whole")));
                    let number = (u32::try_from(marked).expect("small") * 7 + offset) % KEYS;
                    let value = get(&**tree, &number.to_be_bytes()).expect("every key stays");
                    assert!(
                        round_of(&value) >= marked.max(seen),
                        "no pair is older than the marker or an earlier read"
                    );
                    seen = marked;
                    let scanned = scan(&**tree, b"");
                    assert_eq!(scanned.len(), KEYS as usize, "every key stays");
                    assert!(scanned.iter().all(|(_, value)| round_of(value) >= marked));
                }
            });
        }
        // Readers must be let go even where writing fails.
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (1..=ROUNDS).for_each(&write_round)));
        done.store(true, Ordering::Release);
        written.expect("writer writes");
    });
}

fn a_clean_close_keeps_everything(engine: Arc<dyn Engine>, reopen: &dyn Fn(Arc<dyn Engine>) -> Arc<dyn Engine>) {
    let pair = |number: u32| (Bytes::copy_from_slice(&number.to_be_bytes()), Some(of_round(u64::from(number))));
    let a = tree(&*engine, "a");
    a.write(&mut (0..1_000).map(pair), b"ma").expect("tree writes");
    write(&*tree(&*engine, "b"), &[(b"k", Some(b"of b"))], b"mb");
    drop(a);
    let engine = reopen(engine);
    let a = tree(&*engine, "a");
    assert_eq!(marker(&*a).as_deref(), Some(&b"ma"[..]));
    let expected: Vec<_> = (0..1_000).map(pair).map(|(key, value)| (key, value.expect("put"))).collect();
    assert_eq!(scan(&*a, b""), expected);
    assert_eq!(marker(&*tree(&*engine, "b")).as_deref(), Some(&b"mb"[..]));
    engine.close().expect("engine closes");
    assert!(a.write(&mut std::iter::empty(), b"late").is_err(), "a closed engine takes no writes");
}
