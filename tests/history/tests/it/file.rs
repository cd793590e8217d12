//! The file: what is written is read again, equal histories are equal bytes, and what is no history is refused.

use std::process::Command;

use granary_history::{History, format};
use proptest::prelude::*;

use crate::simulated::run;

fn bytes(history: &History) -> Vec<u8> {
    format::write(Vec::new(), history).expect("written")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read_again(seed in any::<u64>()) {
        let history = run(seed, 60);
        let written = bytes(&history);
        let read = format::read(written.as_slice()).expect("read");
        prop_assert_eq!(&read, &history);
        prop_assert_eq!(bytes(&read), written);
    }
}

const HEADER: &str = r#"{"format":"granary-history/1","harness":"test","seed":7,"build":"b"}"#;

/// Pins the format: outsiders write it, too.
#[test]
fn golden_lines() {
    let lines = [
        HEADER,
        r#"{"i":0,"t_ns":5,"type":"invoke","process":1,"f":"put","group":"g","key":"k","value":"v","event_time":3,"write_id":"w1","session":2}"#,
        r#"{"i":1,"t_ns":6,"type":"ok","process":1,"shard":1,"log_index":9,"stamp":4,"became_online":true,"node":"n"}"#,
        r#"{"i":2,"t_ns":6,"type":"invoke","process":1,"f":"delete","group":"g","key":"k","event_time":4,"write_id":"w2"}"#,
        r#"{"i":3,"t_ns":7,"type":"fail","process":1,"err":"refused"}"#,
        r#"{"i":4,"t_ns":7,"type":"invoke","process":1,"f":"hard_delete","group":"g","key":"k","event_time":4,"write_id":"w3"}"#,
        r#"{"i":5,"t_ns":8,"type":"info","process":1,"err":"timeout"}"#,
        r#"{"i":6,"t_ns":8,"type":"invoke","process":2,"f":"get","group":"g","key":"k","level":"linearizable"}"#,
        r#"{"i":7,"t_ns":9,"type":"ok","process":2,"seen":[{"value":"v","event_time":3}]}"#,
        r#"{"i":8,"t_ns":9,"type":"invoke","process":2,"f":"batch_get","group":"g","keys":["k","l","m"],"level":"bounded_staleness","max_staleness_ms":50}"#,
        r#"{"i":9,"t_ns":10,"type":"ok","process":2,"seen":[{"value":"v"},{"absent":true},{"error":true}]}"#,
        r#"{"i":10,"t_ns":11,"type":"fault","fault":"cut","targets":["a","b"],"edge":"begin","installed":"yes","evidence":"no ping"}"#,
        r#"{"i":11,"t_ns":12,"type":"replica_state","shard":1,"node":"n","replica":3,"applied_index":9,"state_hash":"00ff"}"#,
        r#"{"i":12,"t_ns":13,"type":"mark","mark":"offline_complete"}"#,
        r#"{"i":13,"t_ns":14,"type":"table_row","group":"g","key":"k","value":"v","event_time":3,"write_id":"w1","stream":"s","sequence":1}"#,
        r#"{"i":14,"t_ns":14,"type":"table_offset","group":"g","stream":"s","sequence":1}"#,
    ];
    let text = lines.join("\n") + "\n";
    let history = format::read(text.as_bytes()).expect("read");
    assert_eq!(String::from_utf8(bytes(&history)).expect("text"), text);
}

#[test]
fn what_is_no_history_is_refused_with_its_line() {
    let good = r#"{"i":0,"t_ns":5,"type":"invoke","process":1,"f":"get","group":"g","key":"k","level":"eventual"}"#;
    let refused = |lines: &[&str]| format::read(lines.join("\n").as_bytes()).expect_err("refused").to_string();
    let other = HEADER.replace("history/1", "history/2");
    assert!(refused(&[&other]).contains("line 1: the format is"));
    assert!(refused(&[HEADER, good, good]).contains("line 3: i is 0, but 1 is due"));
    assert!(refused(&[HEADER, &good.replace("eventual", "some")]).contains("line 2: unknown variant `some`"));
    assert!(refused(&[HEADER, &good.replace("\"group\":\"g\",", "")]).contains("line 2: `group` is missing"));
    assert!(refused(&[HEADER, &good.replace("\"process\"", "\"proces\"")]).contains("line 2: unknown field `proces`"));
    let odd = good.replace("\"process\":1,", "\"process\":1,\"value\":\"v\",");
    assert!(refused(&[HEADER, &odd]).contains("line 2: does not belong on such a line: value"));
    let back = r#"{"i":1,"t_ns":4,"type":"mark","mark":"final"}"#;
    assert!(refused(&[HEADER, good, back]).contains("line 3: t_ns goes back"));
}

/// The command says what was found and ends accordingly.
#[test]
fn the_command_tells_right_from_wrong() {
    let told = |history: &History| {
        let file = std::env::temp_dir().join(format!("granary-history-{}.jsonl", std::process::id()));
        std::fs::write(&file, bytes(history)).expect("written");
        let output = Command::new(env!("CARGO_BIN_EXE_granary-history")).arg("check").arg(&file).output();
        let output = output.expect("the command runs");
        std::fs::remove_file(&file).expect("removed");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let mut history = run(3, 100);
    let (code, text) = told(&history);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("every promise that was checked holds"), "{text}");
    history.events.retain(|event| !matches!(event.what, granary_history::model::What::TableRow(_)));
    for (i, event) in (0..).zip(&mut history.events) {
        event.i = i;
    }
    let (code, text) = told(&history);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("offline exactly once is broken"), "{text}");
}

/// A recorder keeps the rules of recording, and its file is its history.
#[test]
fn a_recorder_goes_on_as_a_new_process_after_an_unknown_outcome() {
    use granary_history::model::{Ack, Header, Outcome};
    let file = std::env::temp_dir().join(format!("granary-recorder-{}.jsonl", std::process::id()));
    let out = Box::new(std::fs::File::create(&file).expect("created"));
    let clock = std::sync::atomic::AtomicU64::new(0);
    let clock = Box::new(move || clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let recorder = granary_history::Recorder::begin(Header::default(), clock, Some(out)).expect("begun");
    let mut client = recorder.client(Some(1));
    client.begin(crate::recording::put("k", "a", 1));
    client.end(Outcome::Unknown { error: "timeout".to_owned() }, None);
    client.begin(crate::recording::put("k", "a", 1));
    client.end(Outcome::Written(Ack::default()), None);
    let history = recorder.finish().expect("written");
    let read = format::read(std::fs::read(&file).expect("read").as_slice()).expect("a history");
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(read, history);
    // Two attempts at one write are one write.
    let operations = granary_history::Operations::of(&history).expect("recorded well");
    let writes = &operations.keys.values().next().expect("one key").writes;
    assert_eq!((writes.len(), writes[0].invoked.i, writes[0].acked.map(|(at, _)| at.i)), (1, 0, Some(3)));
}
