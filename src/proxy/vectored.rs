//! Several pieces in one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Up to here the system takes longer over a list of pieces than it takes to make them one.
const SMALL: usize = 4 * 1024;

/// Writes pieces as `poll_write_vectored` does, those that are one or small with an ordinary write.
pub fn poll_write_all<S: AsyncWrite>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = pieces {
        return stream.poll_write(cx, only);
    }
    let length = pieces.iter().map(|piece| piece.len()).sum();
    if length > SMALL {
        return stream.poll_write_vectored(cx, pieces);
    }
    let mut all = Vec::with_capacity(length);
    for piece in pieces {
        all.extend_from_slice(piece);
    }
    stream.poll_write(cx, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes how it is written to, and takes at most as much at once.
    struct Noting {
        written: Vec<(&'static str, Vec<u8>)>,
        most: usize,
    }

    impl AsyncWrite for Noting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = &buf[..buf.len().min(self.most)];
            self.written.push(("one", taken.to_vec()));
            Poll::Ready(Ok(taken.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let length = all.len();
            self.written.push(("list", all));
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_pieces_are_one_write_and_large_ones_a_list() {
        let large = [b'x'; SMALL];
        for (pieces, most, expected) in [
            (vec![&b"head"[..], b"body"], 100, ("one", &b"headbody"[..])),
            (vec![&b"head"[..], b"body"], 6, ("one", &b"headbo"[..])),
            (vec![&large[..]], SMALL, ("one", &large[..])),
            (vec![&b"y"[..], &large[1..]], SMALL, ("one", &[b"y", &large[1..]].concat())),
            (vec![&b"y"[..], &large[..]], SMALL, ("list", &[b"y", &large[..]].concat())),
        ] {
            let mut stream = Noting { written: Vec::new(), most };
            let pieces: Vec<_> = pieces.into_iter().map(IoSlice::new).collect();
            let mut cx = Context::from_waker(std::task::Waker::noop());

            let written = poll_write_all(Pin::new(&mut stream), &mut cx, &pieces);

            assert!(matches!(written, Poll::Ready(Ok(bytes)) if bytes == expected.1.len()), "{written:?}");
            assert_eq!(stream.written, [(expected.0, expected.1.to_vec())]);
        }
    }
}
