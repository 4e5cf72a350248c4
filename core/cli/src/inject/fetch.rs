//! # Manifests from addresses
//!
//! Job: what an `http` or `https` address answers, redirects followed, in bounded time.
//! May touch: the network. Callers: `input`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{Request, StatusCode, Uri, header};
use kube::{Client, Config, client::Body};

/// Longest that an answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest chain of redirects.
const REDIRECTS: usize = 5;

/// The text at an address.
///
/// # Errors
/// Names the address, and what it answered or why it did not.
pub(super) async fn text(address: &str) -> Result<String> {
    let read = tokio::time::timeout(LIMIT, follow(address)).await;
    read.with_context(|| format!("no whole answer within {} s", LIMIT.as_secs()))
        .flatten()
        .with_context(|| format!("cannot fetch {address}"))
}

async fn follow(address: &str) -> Result<String> {
    let mut next: Uri = address.parse().context("it is not an address")?;
    for _ in 0..=REDIRECTS {
        let mut parts = next.clone().into_parts();
        let path = parts.path_and_query.replace(http::uri::PathAndQuery::from_static("/"));
        // The Kubernetes client is an HTTP client with the system's roots; here it has no credentials.
        let mut config = Config::new(Uri::from_parts(parts).context("it names no host")?);
        config.connect_timeout = Some(Duration::from_secs(5));
        let client = Client::try_from(config).context("cannot prepare a client")?;
        let path = path.as_ref().map_or("/", |path| path.as_str());
        let request = Request::get(path).header(header::ACCEPT, "*/*").body(Body::empty())?;
        let response = client.send(request).await?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        match (status.is_redirection(), location) {
            (true, Some(location)) => next = relative(&next, location)?,
            _ if status == StatusCode::OK => {
                let body = response.into_body().collect_bytes().await?;
                return String::from_utf8(body.to_vec()).context("it is not text");
            }
            _ => bail!("it answered {status}"),
        }
    }
    bail!("it redirects more than {REDIRECTS} times")
}

/// Where a redirect leads: an address, or a path of the same host.
fn relative(from: &Uri, location: &str) -> Result<Uri> {
    let bad = || format!("it redirects to `{location}`, which is not an address");
    let to: Uri = location.parse().with_context(bad)?;
    if to.scheme().is_some() {
        return Ok(to);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(location.parse().with_context(bad)?);
    Uri::from_parts(parts).with_context(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    /// A server that gives each of the answers to one connection, and ends.
    fn serve(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).unwrap();
                assert!(read > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        format!("http://{address}/app.yaml")
    }

    #[tokio::test]
    async fn an_address_is_read_through_a_redirect() {
        let address = serve(&[
            "HTTP/1.1 302 Found\r\nlocation: /raw/app.yaml\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nkind: Pod\n",
        ]);
        assert_eq!(text(&address).await.unwrap(), "kind: Pod\n");
    }

    #[tokio::test]
    async fn what_an_address_answers_instead_is_told() {
        let address =
            serve(&["HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"]);
        let error = format!("{:#}", text(&address).await.unwrap_err());
        assert!(error.contains(&address) && error.contains("404"), "{error}");
    }
}
