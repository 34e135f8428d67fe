//! A web service that calls, and is called: HTTP requests become calls of `squares`, and whoever wants to know asks `visits` how
//! many there were.
//!
//! ```sh
//! cargo run -p homing-examples --bin axum_service                       # all in one process
//! cargo run -p homing-examples --bin axum_service amqp://127.0.0.1/     # beside other programs
//! curl http://127.0.0.1:3000/square/12
//! ```
//!
//! Ctrl-C lets what is under way end. `PORT` chooses another port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use homing::{Communicator, ErrorKind, RpcRequest, RpcSubscriber};
use tower::{ServiceBuilder, service_fn};

#[derive(Clone)]
struct App {
    communicator: Communicator,
    visits: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let communicator = Communicator::connect(&homing_examples::broker()).await?;
    let app = App { communicator: communicator.clone(), visits: Arc::default() };

    // In another program, where there is more than one. A tower service, with two of tower's layers.
    let squares = ServiceBuilder::new().concurrency_limit(16).timeout(Duration::from_secs(2)).service(service_fn(
        |request: RpcRequest| async move {
            let number: i64 = request.decode()?;
            Ok::<_, homing::Error>(number * number)
        },
    ));
    communicator.add_rpc_subscriber("squares", RpcSubscriber::service(squares)).await?;

    let visits = Arc::clone(&app.visits);
    let visits = RpcSubscriber::closure(move |_: RpcRequest| visits.load(Ordering::Relaxed));
    communicator.add_rpc_subscriber("visits", visits).await?;

    let routes = Router::new().route("/square/{number}", get(square)).route("/visits", get(asked)).with_state(app);
    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes).with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) }).await?;

    let report = communicator.drain(Duration::from_secs(5)).await?;
    println!("closed: {} calls refused, {} callers left waiting", report.calls_refused, report.requests_ended);
    Ok(())
}

async fn square(State(app): State<App>, Path(number): Path<i64>) -> Result<Json<i64>, (StatusCode, String)> {
    app.visits.fetch_add(1, Ordering::Relaxed);
    let call = app.communicator.rpc_send("squares", number).timeout(Duration::from_secs(5)).returning();
    call.await.map(Json).map_err(|error| status(&error))
}

/// Asks itself, by a call like any other program's.
async fn asked(State(app): State<App>) -> Result<Json<u64>, (StatusCode, String)> {
    app.communicator.rpc_send("visits", ()).returning().await.map(Json).map_err(|error| status(&error))
}

/// What an error of a call is to whoever asked by HTTP.
fn status(error: &homing::Error) -> (StatusCode, String) {
    let status = match error.kind() {
        ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Unroutable | ErrorKind::ConnectionLost | ErrorKind::CommunicatorClosed => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_GATEWAY,
    };
    (status, error.to_string())
}
