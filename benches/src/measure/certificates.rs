//! A context per certificate against setting certificate and key on the connection: memory at 10,000 certificates, and CPU
//! time of the server per full handshake (TLS 1.3, ECDSA P-256).

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{NameType, Ssl, SslAcceptor, SslContext, SslMethod, SslRef, SslStream, SslVerifyMode};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use sluicegate::tls::ServerCertificate;
use sluicegate_snapshot::model::Certificate;

use super::{resident, thread_cpu};

const CERTIFICATES: usize = 10_000;
const HANDSHAKES: usize = 2_000;

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// A certificate for one host, signed by a CA, as PEM of the chain of two.
fn certificate(number: usize, ca: &(X509, PKey<Private>)) -> Arc<Certificate> {
    let key = key();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_issuer_name(ca.0.subject_name()).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(90).unwrap()).unwrap();
    let name =
        SubjectAlternativeName::new().dns(&host(number)).build(&builder.x509v3_context(Some(&ca.0), None)).unwrap();
    builder.append_extension(name).unwrap();
    builder.sign(&ca.1, MessageDigest::sha256()).unwrap();
    let chain = [builder.build().to_pem().unwrap(), ca.0.to_pem().unwrap()].concat();
    sluicegate_snapshot::facts::read_certificate(&chain, &key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

fn host(number: usize) -> String {
    format!("h{number}.bench.test")
}

fn authority() -> (X509, PKey<Private>) {
    let key = key();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "bench").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(90).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

pub fn measure() {
    let ca = authority();
    let published: Vec<Arc<Certificate>> = (0..CERTIFICATES).map(|number| certificate(number, &ca)).collect();
    let before = resident("self");
    let set: Vec<ServerCertificate> =
        published.iter().map(|source| ServerCertificate::new(source).unwrap().unwrap()).collect();
    let for_set = resident("self") - before;
    let before = resident("self");
    let contexts: Vec<SslContext> = published.iter().map(|source| context(source)).collect();
    let for_contexts = resident("self") - before;
    let cpu_set = handshakes(move |ssl, number| set[number].set_on(ssl).unwrap());
    let cpu_contexts = handshakes(move |ssl, number| ssl.set_ssl_context(&contexts[number]).unwrap());
    println!(
        "| {CERTIFICATES} certificates (ECDSA P-256, chain of two) | KiB per certificate | µs of CPU per full handshake |"
    );
    println!("|---|---|---|");
    let row = |what: &str, bytes: usize, cpu: f64| {
        println!("| {what} | {:.1} | {cpu:.0} |", bytes as f64 / CERTIFICATES as f64 / 1024.0);
    };
    row("set on the connection", for_set, cpu_set);
    row("a context per certificate", for_contexts, cpu_contexts);
}

fn context(source: &Certificate) -> SslContext {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    let mut chain = X509::stack_from_pem(source.chain_pem.as_bytes()).unwrap().into_iter();
    builder.set_certificate(&chain.next().unwrap()).unwrap();
    chain.for_each(|certificate| builder.add_extra_chain_cert(certificate).unwrap());
    builder.set_private_key(&PKey::private_key_from_pkcs8(source.key.expose_der().unwrap()).unwrap()).unwrap();
    builder.build().into_context()
}

/// CPU time of the server's side per handshake, in microseconds.
fn handshakes(choose: impl Fn(&mut SslRef, usize) + Send + Sync + 'static) -> f64 {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    // The gateway chooses in the certificate callback, which this library has no binding for; at the same point of the
    // handshake is the callback for the server name.
    builder.set_servername_callback(move |ssl, _| {
        let name = ssl.servername(NameType::HOST_NAME).unwrap();
        let number = name.trim_start_matches('h').split('.').next().unwrap().parse().unwrap();
        choose(ssl, number);
        Ok(())
    });
    let acceptor = builder.build();
    let mut client = openssl::ssl::SslConnector::builder(SslMethod::tls()).unwrap();
    client.set_verify(SslVerifyMode::NONE);
    let client = client.build().into_context();
    let mut spent = 0;
    for turn in 0..HANDSHAKES {
        let (here, there) = UnixStream::pair().unwrap();
        let mut ssl = Ssl::new(&client).unwrap();
        ssl.set_hostname(&host(turn * 7_919 % CERTIFICATES)).unwrap();
        let connecting = std::thread::spawn(move || {
            let mut stream = SslStream::new(ssl, there).unwrap();
            stream.connect().unwrap();
        });
        let started = thread_cpu();
        acceptor.accept(here).unwrap();
        spent += thread_cpu() - started;
        connecting.join().unwrap();
    }
    spent as f64 / HANDSHAKES as f64 / 1e3
}
