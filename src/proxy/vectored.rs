//! A vectored write that copies small pieces together.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, ReadBuf};

/// Up to this many bytes, copying pieces together is faster than a vectored write.
const MAX_COPIED_BYTES: usize = 4 * 1024;

/// Writes pieces as `poll_write_vectored` does; one piece, or small ones, with a single ordinary write.
pub(super) fn poll_write_all<S: AsyncWrite>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = pieces {
        return stream.poll_write(cx, only);
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    if length > MAX_COPIED_BYTES {
        return stream.poll_write_vectored(cx, pieces);
    }
    let mut space = [MaybeUninit::uninit(); MAX_COPIED_BYTES];
    let mut all = ReadBuf::uninit(&mut space);
    for piece in pieces {
        all.put_slice(piece);
    }
    stream.poll_write(cx, all.filled())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records writes, and takes at most so many bytes at once.
    struct Recorder {
        written: Vec<(&'static str, Vec<u8>)>,
        most: usize,
    }

    impl AsyncWrite for Recorder {
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
        let large = [b'x'; MAX_COPIED_BYTES];
        for (pieces, most, expected) in [
            (vec![&b"head"[..], b"body"], 100, ("one", &b"headbody"[..])),
            (vec![&b"head"[..], b"body"], 6, ("one", &b"headbo"[..])),
            (vec![&large[..]], MAX_COPIED_BYTES, ("one", &large[..])),
            (vec![&b"y"[..], &large[1..]], MAX_COPIED_BYTES, ("one", &[b"y", &large[1..]].concat())),
            (vec![&b"y"[..], &large[..]], MAX_COPIED_BYTES, ("list", &[b"y", &large[..]].concat())),
        ] {
            let mut stream = Recorder { written: Vec::new(), most };
            let pieces: Vec<_> = pieces.into_iter().map(IoSlice::new).collect();
            let mut cx = Context::from_waker(std::task::Waker::noop());

            let written = poll_write_all(Pin::new(&mut stream), &mut cx, &pieces);

            assert!(matches!(written, Poll::Ready(Ok(bytes)) if bytes == expected.1.len()), "{written:?}");
            assert_eq!(stream.written, [(expected.0, expected.1.to_vec())]);
        }
    }
}
