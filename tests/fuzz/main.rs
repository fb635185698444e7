//! The fuzz targets without a fuzzer: each with its corpus, and with random changes to it.
//!
//! `just fuzz` runs longer and is guided by coverage. A failing input is printed as a Rust literal; it belongs into the
//! target's corpus once the defect is fixed.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a corpus that cannot be read ends the test by panicking; its time is not the daemon's"
)]

#[expect(unreachable_pub, reason = "the targets are a library of their own for the fuzzer")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// The time for each target.
const TIME: Duration = Duration::from_millis(1500);
const LONGEST: usize = 4096;
/// Strings that have a meaning for a target.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"%",
    b"%25",
    b"%2e",
    b"%2f",
    b"%5c",
    b"%00",
    b"%C3%A9",
    b"..",
    b"//",
    b"/",
    b"\\",
    b";",
    b"\"",
    b",",
    b": ",
    b"=",
    b"[::1]",
    b"10.0.0.1",
    b"99999999999999999999",
    b"-1",
    b"\xff",
    b"\0",
];

/// Prints the input if the target panics.
struct Shown<'i>(&'i [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut input = String::new();
            self.0.iter().for_each(|byte| input.extend(byte.escape_ascii().map(char::from)));
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("the input: b\"{input}\"\n"))
                .unwrap();
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// An input of the corpus with a few changes.
fn changed(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=input.len());
        let end = rng.usize(at..=input.len().min(at + 16));
        match rng.u8(..6) {
            0 => drop(input.drain(at..end)),
            1 => drop(input.splice(at..at, WORDS[rng.usize(..WORDS.len())].iter().copied())),
            2 => drop(input.splice(at..end, WORDS[rng.usize(..WORDS.len())].iter().copied())),
            3 => input.extend_from_within(at..end),
            4 => {
                let other = &corpus[rng.usize(..corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[rng.usize(..=other.len())..]);
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = if rng.bool() { *byte ^ (1 << rng.u8(..8)) } else { rng.u8(..) };
                }
            }
        }
    }
    input.truncate(LONGEST);
    input
}

#[test]
fn every_target_holds_for_its_corpus_and_for_random_changes_to_it() {
    let running = targets::ALL.map(|(name, run)| {
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let corpus = corpus(name);
            assert!(corpus.len() >= 3, "{name} has next to no corpus");
            for input in &corpus {
                let _shown = Shown(input);
                run(input);
            }
            let (mut rng, began) = (Rng::new(), Instant::now());
            while began.elapsed() < TIME {
                let input = changed(&corpus, &mut rng);
                let _shown = Shown(&input);
                run(&input);
            }
        })
    });
    let failed: Vec<&str> = targets::ALL
        .iter()
        .zip(running)
        .filter_map(|((name, _), running)| running.unwrap().join().is_err().then_some(*name))
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Each of these rules shows what it does not take for a secret, as a reader of a broken file may.
#[test]
fn the_target_of_quoted_lines_finds_a_planted_leak() {
    type Rule = fn(&str) -> bool;
    let rules: [(&str, Rule); 4] = [
        ("shows every line", |_| true),
        ("shows comments", |line| line.starts_with('#')),
        ("shows lines without the key of a secret", |line| {
            !line.contains("secret") && !line.contains("token")
        }),
        ("shows the values of public keys", |line| {
            line.starts_with("listen") || line.starts_with("upstream")
        }),
    ];
    let corpus = corpus("quoted");
    for (rule, is_shown) in rules {
        let show = |text: &str| text.lines().filter(|line| is_shown(line)).collect::<String>();
        let (mut rng, began) = (Rng::new(), Instant::now());
        while !targets::quoted::shows_secret(&changed(&corpus, &mut rng), show) {
            assert!(began.elapsed() < TIME, "the target does not find a renderer that {rule}");
        }
    }
}

#[test]
fn every_target_has_a_fuzzer_and_every_corpus_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".rs").to_owned())
            .collect();
        names.sort();
        names
    };
    let all = targets::ALL.map(|(name, _)| name);

    assert_eq!(names("corpus"), all);
    assert_eq!(names("fuzz_targets"), all);
}
