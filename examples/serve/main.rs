//! A service over HTTP: one model, a session for each thread. A request has one or more images as `f32`, its answer a class a line.
//!
//! ```text
//! cargo run --release --example serve -- 127.0.0.1:8000     # serves until it is ended
//! cargo run --release --example serve                       # asks itself on the loopback device, and prints latencies
//! ```

mod load;

use std::io::Read as _;
use std::sync::Arc;

use qcc::{Model, Options, Session, TensorRef, compile};
use tiny_http::{Response, Server};

/// An error of any kind, which may go from one thread to another.
type Any = Box<dyn std::error::Error + Send + Sync>;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

/// Threads that answer.
const THREADS: usize = 2;

/// Longest body that is read.
const MOST: u64 = 64 << 20;

/// Classes of the images in a body.
fn classes(session: &mut Session, body: &[u8]) -> Result<String, Any> {
    let dims = session.model().inputs()[0].dims.clone();
    let bytes = 4 * session.model().inputs()[0].elements();
    if body.is_empty() || !body.len().is_multiple_of(bytes) {
        return Err(format!("{} bytes are no images of {bytes}: {dims:?} of f32", body.len()).into());
    }
    let mut lines = String::new();
    for image in body.chunks_exact(bytes) {
        let image: Vec<f32> = image.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let scores = session.run_f32(&[TensorRef::new(&dims, &image)])?;
        let scores = scores[0].as_slice::<f32>().ok_or("the model gives real numbers")?;
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        lines += &format!("{}\n", best.ok_or("the model gives scores")?);
    }
    Ok(lines)
}

/// Answers requests until the server is unblocked.
fn serve(server: &Server, model: Arc<Model>) {
    let mut session = Session::shared(model);
    while let Ok(mut request) = server.recv() {
        let mut body = Vec::new();
        let read = request.as_reader().take(MOST).read_to_end(&mut body).map_err(Any::from);
        let (text, status) = match read.and_then(|_| classes(&mut session, &body)) {
            Ok(classes) => (classes, 200),
            Err(error) => (format!("{error}\n"), 400),
        };
        // A client that has gone wants no answer.
        let _ = request.respond(Response::from_string(text).with_status_code(status));
    }
}

fn main() -> Result<(), Any> {
    let model = Arc::new(compile(MODEL, &Options::default())?.jit()?);
    let own = std::env::args().nth(1);
    let server = Server::http(own.as_deref().unwrap_or("127.0.0.1:0"))?;
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|_| drop(scope.spawn(|| serve(&server, model.clone()))));
        if own.is_some() {
            return Ok(());
        }
        let said = load::test(&server.server_addr().to_string(), &vec![0; 4 * model.inputs()[0].elements()]);
        (0..THREADS).for_each(|_| server.unblock());
        said.map(|said| println!("{said}"))
    })
}
