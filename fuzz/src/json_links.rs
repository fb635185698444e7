//! Any body of an API in chunks of any size: the links are those of the whole body at once, and nothing else changes.

use bearerd::proxy::message::json_links::JsonLinks;
use bytes::Bytes;

const PROXY: &str = "http://localhost:8080/gen";

fn rewritten<'c>(path: &str, chunks: impl Iterator<Item = &'c [u8]>) -> Vec<u8> {
    let origins = ["https://api.example.com", "https://public.example.com:8443"];
    let mut links = JsonLinks::new(&origins, path, PROXY.to_owned());
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend(links.push(&Bytes::copy_from_slice(chunk)));
    }
    out.extend(links.finish());
    out
}

pub fn run(body: &[u8]) {
    for path in ["", "/v2"] {
        let whole = rewritten(path, std::iter::once(body));
        for size in [1, 2, 7] {
            assert_eq!(rewritten(path, body.chunks(size)), whole);
        }
        // JSON stays JSON, with the same values but for the links.
        if let (Ok(before), Ok(after)) = (parsed(body), parsed(&whole)) {
            compare(&before, &after);
        } else {
            assert_eq!(parsed(body).is_ok(), parsed(&whole).is_ok());
        }
    }
}

fn parsed(body: &[u8]) -> serde_json::Result<serde_json::Value> {
    serde_json::from_slice(body)
}

fn compare(before: &serde_json::Value, after: &serde_json::Value) {
    use serde_json::Value::{Array, Object, String};
    match (before, after) {
        (String(before), String(after)) => assert!(before == after || after.starts_with(PROXY)),
        (Array(before), Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| compare(before, after));
        }
        // Two names may become one.
        (Object(before), Object(after)) => assert!(after.len() <= before.len()),
        (before, after) => assert_eq!(before, after),
    }
}
