//! Each engine passes the engines' suite.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use granary_store::disk::Trust;
use granary_store::{Engine, conformance};
use granary_test_engines::kind::Kind;

use crate::support::tempdir;

#[test]
fn engines_conform() {
    for kind in Kind::ALL {
        let parent = tempdir();
        let count = AtomicU32::new(0);
        let dir = |number: u32| parent.path().join(format!("engine-{number}"));
        let opened = |dir: &Path, trust: &Trust| -> Arc<dyn Engine> {
            let opened = kind.open(dir).expect("opens");
            assert_eq!(&opened.trust, trust);
            opened.engine
        };
        conformance::run(&|| opened(&dir(count.fetch_add(1, Ordering::Relaxed) + 1), &Trust::Fresh), &|engine| {
            engine.close().expect("closes");
            opened(&dir(count.load(Ordering::Relaxed)), &Trust::Clean)
        });
    }
}
