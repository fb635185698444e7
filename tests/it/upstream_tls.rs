//! TLS to upstreams: an upstream with a wrong certificate or TLS version gets no byte of a request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use ::aws_lc_rs::digest::{SHA256, digest};
use ::aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, NameConstraints, PublicKeyData, SigningKey,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Request, Setup, World, daemon, eventually};
use testkit::harness::raw::{RawPeer, read_head};

const DAY: Duration = Duration::from_hours(24);

/// A server's certificate chain, and the authority that the route trusts.
struct Shown {
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: KeyPair,
    authority: String,
}

fn authority(adjust: impl FnOnce(&mut CertificateParams)) -> (Issuer<'static, KeyPair>, rcgen::Certificate) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority");
    adjust(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (Issuer::new(params, key), certificate)
}

/// A certificate for these names, issued by a trusted authority.
fn shown(
    names: &[&str],
    of_authority: impl FnOnce(&mut CertificateParams),
    of_server: impl FnOnce(&mut CertificateParams),
) -> Shown {
    let (issuer, authority) = authority(of_authority);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    of_server(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Shown { chain: vec![certificate.der().clone()], key, authority: authority.pem() }
}

fn usual(_: &mut CertificateParams) {}

fn named(names: &[&str]) -> Shown {
    shown(names, usual, usual)
}

/// A self-signed certificate that is not trusted.
fn self_signed() -> Shown {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    Shown { chain: vec![certificate.der().clone()], key, authority: authority(usual).1.pem() }
}

/// A certificate whose issuer has a valid certificate but is no certificate authority.
fn by_no_authority() -> Shown {
    let (issuer, root) = authority(usual);
    let (key, params) =
        (KeyPair::generate().unwrap(), CertificateParams::new(["between".to_owned()]).unwrap());
    let between = params.signed_by(&key, &issuer).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Shown { chain: vec![leaf.der().clone(), between.der().clone()], key, authority: root.pem() }
}

/// An RSA key with the exponent 3 without a known private key. The modulus is made for one message, so that the
/// message's signature is a cube root (RFC 8017 §8.2, for SHA-256).
struct MadeForOne {
    bits: usize,
    public: OnceLock<Vec<u8>>,
}

impl MadeForOne {
    fn new(bits: usize) -> Self {
        Self { bits, public: OnceLock::new() }
    }
}

impl PublicKeyData for &MadeForOne {
    fn der_bytes(&self) -> &[u8] {
        self.public.get().unwrap()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for &MadeForOne {
    /// The first message that is signed.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        const SHA_256: &[u8] =
            b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
        let bytes = self.bits / 8;
        let hash = digest(&SHA256, message);
        let mut padded = vec![0xff; bytes];
        let end = [&[0], SHA_256, hash.as_ref()].concat();
        padded[..2].copy_from_slice(&[0, 1]);
        padded[bytes - end.len()..].copy_from_slice(&end);

        // The root's cube has as many bits as the modulus, which is the cube less the message and must be odd.
        let (factor, shift) = if self.bits == 1024 { (5, 339) } else { (6, 680) };
        let one = 1 - u64::from(padded[bytes - 1] % 2);
        let (mut root, mut modulus) = (vec![0; bytes], vec![0; bytes]);
        add(&mut root, factor, shift);
        add(&mut root, one, 0);
        add(&mut modulus, factor.pow(3), 3 * shift);
        add(&mut modulus, 3 * factor.pow(2) * one, 2 * shift);
        add(&mut modulus, 3 * factor * one, shift);
        add(&mut modulus, one, 0);
        let mut borrowed = false;
        for (digit, less) in modulus.iter_mut().zip(&padded).rev() {
            let (after, first) = digit.overflowing_sub(*less);
            let (after, second) = after.overflowing_sub(u8::from(borrowed));
            (*digit, borrowed) = (after, first || second);
        }
        let numbers = [der(2, &[&[0], modulus.as_slice()].concat()), der(2, &[3])].concat();
        let is_first = self.public.get().is_none();
        let public = self.public.get_or_init(|| der(0x30, &numbers));
        let old = &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
        let is_good = UnparsedPublicKey::new(old, public).verify(message, &root).is_ok();
        assert!(is_good || !is_first, "the signature is wrong");
        Ok(root)
    }
}

/// Adds `value` times 2 to the power of `shift` to a big-endian number.
fn add(number: &mut [u8], value: u64, shift: usize) {
    let mut carry = u128::from(value) << (shift % 8);
    for digit in number.iter_mut().rev().skip(shift / 8) {
        carry += u128::from(*digit);
        *digit = carry.to_le_bytes()[0];
        carry >>= 8;
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match content.len() {
        0..128 => vec![length[1]],
        128..256 => vec![0x81, length[1]],
        _ => vec![0x82, length[0], length[1]],
    };
    [&[tag], length.as_slice(), content].concat()
}

/// A certificate of a trusted authority that has an RSA key of so many bits.
fn by_rsa_of(bits: usize) -> Shown {
    let made = MadeForOne::new(bits);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "an authority");
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(params.clone(), &made)).unwrap();
    // A trust anchor's own signature is not verified.
    let authority = params.self_signed(&&made).unwrap().pem();
    Shown { chain: vec![leaf.der().clone()], key, authority }
}

impl Shown {
    fn config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// An API over TLS that counts the requests, and records the server names of handshakes.
async fn api(config: Arc<ServerConfig>, read: &Arc<AtomicUsize>, names: &Arc<Mutex<Vec<String>>>) -> RawPeer {
    let (read, names) = (Arc::clone(read), Arc::clone(names));
    RawPeer::tls(config, move |mut stream| {
        let (read, names) = (Arc::clone(&read), Arc::clone(&names));
        async move {
            names.lock().unwrap().extend(stream.get_ref().1.server_name().map(str::to_owned));
            let head = read_head(&mut stream).await;
            read.fetch_add(head.len(), Ordering::Relaxed);
            let text = String::from_utf8_lossy(&head).into_owned();
            let id = text.lines().find_map(|line| line.strip_prefix("x-test-id: ")).unwrap_or_default();
            let answer = format!("HTTP/1.1 200 OK\r\nx-test-id: {id}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await
}

/// A route to each upstream, with the authority that is trusted there.
fn routes(upstreams: &BTreeMap<&str, (String, String)>) -> Setup {
    let (mut setup, mut more) = (daemon(), String::new());
    for (name, (url, authority)) in upstreams {
        setup = setup.file(&format!("{name}.pem"), authority);
        write!(
            more,
            "[[routes]]\npath = \"/{name}\"\nupstream = \"{url}\"\ncredential = \"api\"\nca_file = \"{name}.pem\"\n"
        )
        .unwrap();
    }
    setup.route(&more)
}

async fn outcome(world: &World, name: &str) -> (u16, Option<String>, Option<String>) {
    let reply = world.get(&format!("/{name}/x")).await;
    (reply.status, reply.code(), reply.get("proxy-status").map(str::to_owned))
}

/// TLSI-01.
#[tokio::test]
async fn an_upstream_with_a_wrong_certificate_gets_no_byte_of_a_request() {
    let now = SystemTime::now();
    let constrained = |params: &mut CertificateParams| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    };
    let excluded = |params: &mut CertificateParams| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: vec![GeneralSubtree::DnsName("localhost".to_owned())],
        });
    };
    let common_name = |params: &mut CertificateParams| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "localhost");
    };
    let cases = [
        (
            "ended",
            shown(&["localhost"], usual, |params| params.not_after = (now - DAY).into()),
            "localhost",
            "certificate expired on 2",
        ),
        (
            "early",
            shown(&["localhost"], usual, |params| params.not_before = (now + DAY).into()),
            "localhost",
            "certificate not valid before 2",
        ),
        ("other-name", named(&["api.example.com"]), "localhost", "not valid for name"),
        ("other-level", named(&["*.localhost"]), "localhost", "not valid for name"),
        ("self-signed", self_signed(), "localhost", "UnknownIssuer"),
        (
            "other-authority",
            Shown { authority: authority(usual).1.pem(), ..named(&["localhost"]) },
            "localhost",
            "BadSignature",
        ),
        ("no-authority", by_no_authority(), "localhost", "EndEntityUsedAsCa"),
        ("outside", shown(&["localhost"], constrained, usual), "localhost", "NameConstraintViolation"),
        ("excluded", shown(&["localhost"], excluded, usual), "localhost", "NameConstraintViolation"),
        ("common-name", shown(&[], usual, common_name), "localhost", "not valid for name"),
        ("no-address", named(&["localhost"]), "127.0.0.1", "not valid for name"),
        (
            "for-clients",
            shown(&["localhost"], usual, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            "localhost",
            "extended key usage",
        ),
    ];
    let (read, names) = (Arc::default(), Arc::default());
    let (mut peers, mut upstreams) = (Vec::new(), BTreeMap::new());
    for (name, shown, host, _) in &cases {
        let peer = api(shown.config(&[b"http/1.1"]), &read, &names).await;
        let url = format!("https://{host}:{}", peer.address.port());
        upstreams.insert(*name, (url, shown.authority.clone()));
        peers.push(peer);
    }
    let good = named(&["localhost"]);
    let peer = api(good.config(&[b"http/1.1"]), &read, &names).await;
    upstreams.insert("good", (format!("https://localhost:{}", peer.address.port()), good.authority.clone()));
    let world = routes(&upstreams).start().await;

    for (name, _, _, why) in &cases {
        let tls = Some("bearerd; error=tls_certificate_error".to_owned());
        assert_eq!(outcome(&world, name).await, (502, Some("upstream_tls".to_owned()), tls), "{name}");
        let path = format!("/{name}/x");
        let told =
            || world.process.events("request").into_iter().find(|event| event["url_path"] == path.as_str());
        eventually("the log", async || told().is_some()).await;
        let said = told().unwrap()["error"].as_str().unwrap().to_owned();
        assert!(said.contains(why), "{name}: {said}");
    }
    assert_eq!(read.load(Ordering::Relaxed), 0, "something was sent");

    // A good certificate for the configured name is accepted (TLSI-04).
    names.lock().unwrap().clear();
    let reply = world.caller().await.try_send(&Request::get("/good/x")).await;
    drop(reply);
    assert!(read.load(Ordering::Relaxed) > 0);
    assert_eq!(*names.lock().unwrap(), ["localhost"]);
    world.finish().await;
}

/// TLSI-02: the same kind of signature is accepted with a key that is long enough.
#[tokio::test]
async fn an_authority_with_an_rsa_key_of_1024_bits_is_refused() {
    let (read, names) = (Arc::default(), Arc::default());
    let (mut peers, mut upstreams) = (Vec::new(), BTreeMap::new());
    for (name, bits) in [("short", 1024), ("long", 2048)] {
        let shown = by_rsa_of(bits);
        let peer = api(shown.config(&[b"http/1.1"]), &read, &names).await;
        upstreams.insert(name, (format!("https://localhost:{}", peer.address.port()), shown.authority));
        peers.push(peer);
    }
    let world = routes(&upstreams).start().await;

    let (status, code, _) = outcome(&world, "short").await;

    assert_eq!((status, code.as_deref()), (502, Some("upstream_tls")));
    assert_eq!(read.load(Ordering::Relaxed), 0, "something was sent");
    assert_eq!(outcome(&world, "long").await.0, 200);
    world.finish().await;
}

/// An upstream that reads the first bytes, writes `answer`, and records all bytes it receives.
async fn old(answer: &'static [u8], sent: &Arc<Mutex<Vec<u8>>>) -> RawPeer {
    let sent = Arc::clone(sent);
    RawPeer::tcp(move |mut stream| {
        let sent = Arc::clone(&sent);
        async move {
            let mut all = Vec::new();
            let _ = stream.read_buf(&mut all).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.read_to_end(&mut all).await;
            sent.lock().unwrap().extend(all);
        }
    })
    .await
}

/// A `ServerHello` of TLS 1.1, and the alert of a server that knows no later version.
const SERVER_HELLO_1_1: &[u8] =
    b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02random-random-random-random-1234\x00\x00\x2f\x00";
const PROTOCOL_VERSION: &[u8] = b"\x15\x03\x01\x00\x02\x02\x46";

/// TLSI-02.
#[tokio::test]
async fn an_upstream_with_old_tls_or_another_protocol_gets_no_byte_of_a_request() {
    let (read, names) = (Arc::default(), Arc::default());
    let sent = Arc::default();
    let (hello, alert) = (old(SERVER_HELLO_1_1, &sent).await, old(PROTOCOL_VERSION, &sent).await);
    let shown = named(&["localhost"]);
    let mail = api(shown.config(&[b"imap"]), &read, &names).await;
    let mut upstreams = BTreeMap::new();
    for (name, peer) in [("hello", &hello), ("alert", &alert), ("mail", &mail)] {
        let url = format!("https://localhost:{}", peer.address.port());
        upstreams.insert(name, (url, shown.authority.clone()));
    }
    let world = routes(&upstreams).start().await;

    for name in ["hello", "alert", "mail"] {
        let (status, code, proxy_status) = outcome(&world, name).await;
        assert_eq!((status, code.as_deref()), (502, Some("upstream_tls")), "{name}: {proxy_status:?}");
    }

    assert_eq!(read.load(Ordering::Relaxed), 0);
    eventually("their end", async || !sent.lock().unwrap().is_empty()).await;
    let sent = String::from_utf8_lossy(&sent.lock().unwrap()).into_owned();
    assert!(!sent.contains("HTTP/1.1") && !sent.contains("Bearer"), "{sent}");
    world.finish().await;
}
