//! How much is read of what an issuer publishes, and what is said of what cannot be had.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// 256 KiB.
const MOST: usize = 262_144;

/// A set of one key, followed by blanks up to this size.
fn set_of(pair: &Pair, size: usize) -> Vec<u8> {
    let mut set = json!({ "keys": [pair.public("k")] }).to_string().into_bytes();
    set.resize(size, b' ');
    set
}

#[tokio::test]
async fn a_file_of_256_kib_is_read_and_a_larger_one_is_not() {
    let published = Published::new();
    let (first, second) = (Pair::ed(), Pair::ed());
    fs::write(&published.path, set_of(&first, MOST)).unwrap();
    published.look().await;
    assert_eq!(published.outcome(&first.token("k", &json!({}))).await, Ok(()));
    fs::write(&published.path, set_of(&second, MOST + 1)).unwrap();
    published.look().await;
    assert!(published.keys.away.load(Ordering::Relaxed), "what fits would be a set");
    assert_eq!(published.outcome(&first.token("k", &json!({}))).await, Ok(()));
    let told = published.keys.fetch().await.unwrap_err();
    assert_eq!(told, "its keys are larger than 262144 bytes");
}

#[tokio::test]
async fn an_empty_file_is_no_set_from_the_beginning() {
    let published = Published::new();
    fs::write(&published.path, "").unwrap();
    published.look().await;
    assert!(published.keys.away.load(Ordering::Relaxed));
    assert_eq!(published.keys.state(), 0);
}

/// Answers one request with these bytes, in pieces; returns what came of the download.
async fn downloaded(answer: Vec<u8>) -> Result<Vec<u8>, String> {
    crate::server::prepare_tls();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hidden?token=hidden", listener.local_addr().unwrap());
    let answering = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        for piece in answer.chunks(10_000) {
            // whoever has read enough may leave
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    tokio::join!(download(&client, &url), answering).0
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn what_is_downloaded_is_whole_and_not_larger_than_256_kib() {
    let largest: Vec<u8> = (0..MOST).map(|at| (at % 251) as u8).collect();
    assert!(downloaded(answer("200 OK", &largest)).await == Ok(largest.clone()));
    let larger = [largest, vec![0]].concat();
    let told = downloaded(answer("200 OK", &larger)).await.unwrap_err();
    assert_eq!(told, "its keys are larger than 262144 bytes");
}

#[tokio::test]
async fn what_cannot_be_had_is_told_without_its_address() {
    for status in [204, 302, 404, 500] {
        let told = downloaded(answer(&format!("{status} Word"), b"")).await.unwrap_err();
        assert_eq!(told, format!("its keys are answered with {status}"));
    }
    for broken in [b"".as_slice(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"] {
        let told = downloaded(broken.to_vec()).await.unwrap_err();
        assert!(told.starts_with("its keys cannot be had"), "{told}");
        assert!(!told.contains("hidden") && !told.contains("127.0.0.1"), "{told}");
    }
    let absent = Keys::in_file("idp", Path::new("/nowhere/jwks"), &[]);
    let told = absent.fetch().await.unwrap_err();
    assert!(told.starts_with("/nowhere/jwks cannot be read: "), "{told}");
}
