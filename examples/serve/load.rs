//! Clients that ask at the same time, and how long they wait.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use crate::Any;

/// Clients, each with a connection of its own, which it keeps.
const CLIENTS: usize = 4;

/// Requests of each.
const REQUESTS: usize = 50;

/// Sends a body and reads the answer.
fn ask(stream: &mut BufReader<TcpStream>, body: &[u8]) -> Result<String, Any> {
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
    let (mut head, mut length) = (String::new(), 0);
    while stream.read_line(&mut head)? > 2 {
        let line = head.lines().last().unwrap_or_default();
        length = line.strip_prefix("Content-Length: ").map_or(Ok(length), str::parse)?;
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    if head.starts_with("HTTP/1.1 200 ") { Ok(answer) } else { Err(format!("{head}{answer}").into()) }
}

/// Milliseconds of one client's requests.
fn client(address: &str, body: &[u8]) -> Result<Vec<f64>, Any> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    let timed = |_| {
        let start = Instant::now();
        ask(&mut stream, body).map(|_| start.elapsed().as_secs_f64() * 1e3)
    };
    (0..REQUESTS).map(timed).collect()
}

/// Requests a second, and the distribution of latencies. A wrong request is asked too, and must be refused.
pub fn test(address: &str, image: &[u8]) -> Result<String, Any> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    let refused = ask(&mut stream, &image[1..]).err().ok_or("a part of an image is accepted")?.to_string();
    if !refused.starts_with("HTTP/1.1 400 ") || ask(&mut stream, &[image, image].concat())?.lines().count() != 2 {
        return Err("two images have two classes, and a part of one has none".into());
    }
    drop(stream);
    let start = Instant::now();
    let times: Result<Vec<Vec<f64>>, Any> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(address, image))).collect();
        clients.into_iter().map(|c| c.join().map_err(|_| Any::from("a client panicked"))?).collect()
    });
    let (mut times, seconds) = (times?.concat(), start.elapsed().as_secs_f64());
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(format!(
        "{} requests, {:.0} a second; latency in ms: median {:.2}, 90 % {:.2}, 99 % {:.2}, greatest {:.2}",
        times.len(),
        times.len() as f64 / seconds,
        at(50),
        at(90),
        at(99),
        at(100)
    ))
}
