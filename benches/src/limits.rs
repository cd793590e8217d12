//! What the machine can do without Granary: an echo over tonic, an fdatasync loop, a Parquet writer.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use granary_bench::Histogram;
use granary_proto::internal::shard_client::ShardClient;
use granary_proto::internal::shard_server::{Shard, ShardServer};
use granary_proto::internal::{
    ReadIndexRequest, ReadIndexResponse, RowResult, ShardListRequest, ShardListResponse, ShardReadRequest,
    ShardReadResponse, ShardRows, ShardWriteRequest, ShardWriteResponse, ShardWritten, Write, shard_read_response,
    shard_write_response,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::load::closed_loop;
use crate::report::Figure;
use crate::workload::{FRACTIONS, INTEGERS, STRINGS};

/// Takes bytes and gives bytes: the shape of the node's own calls without anything behind them.
struct EchoService;

#[tonic::async_trait]
impl Shard for EchoService {
    async fn write(&self, _: Request<ShardWriteRequest>) -> Result<Response<ShardWriteResponse>, Status> {
        let written = ShardWritten { raft_index: 1, outcomes: vec![] };
        Ok(Response::new(ShardWriteResponse { result: Some(shard_write_response::Result::Written(written)) }))
    }

    async fn read(&self, request: Request<ShardReadRequest>) -> Result<Response<ShardReadResponse>, Status> {
        let bytes = request.into_inner().min_applied_index;
        let row = RowResult { row: Bytes::from(vec![7; usize::try_from(bytes).unwrap_or(0)]), ..Default::default() };
        let rows = ShardRows { applied_index: 1, rows: vec![row] };
        Ok(Response::new(ShardReadResponse { result: Some(shard_read_response::Result::Rows(rows)) }))
    }

    async fn list(&self, _: Request<ShardListRequest>) -> Result<Response<ShardListResponse>, Status> {
        Err(Status::unimplemented("echo only"))
    }

    async fn read_index(&self, _: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        Err(Status::unimplemented("echo only"))
    }
}

/// A bare tonic server on loopback and a channel to it.
pub(crate) struct Echo {
    channel: Channel,
}

impl Echo {
    /// Starts the server.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Server::builder().add_service(ShardServer::new(EchoService));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
        let channel = Channel::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
        Ok(Self { channel })
    }

    /// Unary calls that take `bytes` and answer with next to nothing, like a put.
    pub(crate) async fn takes(&self, in_flight: usize, bytes: usize, duration: Duration) -> anyhow::Result<Figure> {
        let (client, row) = (ShardClient::new(self.channel.clone()), Bytes::from(vec![7; bytes]));
        let name = format!("limit: tonic call that takes {bytes} B");
        closed_loop(&name, in_flight, duration, 1, move |_| {
            let (mut client, row) = (client.clone(), row.clone());
            async move {
                client.write(ShardWriteRequest { shard: 1, writes: vec![Write { row, ..Default::default() }] }).await?;
                Ok(())
            }
        })
        .await
    }

    /// Unary calls that answer with `bytes`, like a get.
    pub(crate) async fn gives(&self, in_flight: usize, bytes: u64, duration: Duration) -> anyhow::Result<Figure> {
        let client = ShardClient::new(self.channel.clone());
        let name = format!("limit: tonic call that gives {bytes} B");
        closed_loop(&name, in_flight, duration, 1, move |_| {
            let mut client = client.clone();
            async move {
                client.read(ShardReadRequest { min_applied_index: bytes, ..Default::default() }).await?;
                Ok(())
            }
        })
        .await
    }
}

/// Appends 4 KiB and waits for the disk, over and over.
pub(crate) fn fdatasync(disk: &Path, duration: Duration) -> anyhow::Result<Figure> {
    let directory = tempfile::tempdir_in(disk)?;
    let mut file = File::create(directory.path().join("sync"))?;
    let (start, mut latencies) = (Instant::now(), Histogram::default());
    while start.elapsed() < duration {
        let begun = Instant::now();
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        latencies.record(begun.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Figure::of_calls("limit: append 4 KiB and fdatasync", 1, &latencies, 1, seconds))
}

/// Writes batches of the workload's columns as zstd Parquet into memory.
pub(crate) fn parquet_writer(duration: Duration) -> anyhow::Result<Figure> {
    const ROWS: usize = 10_000;
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for column in 0..FRACTIONS {
        let values = (0..ROWS).map(|row| (row * 31 + column) as f64 * 0.37);
        columns.push((format!("f{column}"), Arc::new(Float64Array::from_iter_values(values))));
    }
    for column in 0..INTEGERS {
        let values = (0..ROWS).map(|row| ((row * 17 + column) % 1_000) as i64);
        columns.push((format!("i{column}"), Arc::new(Int64Array::from_iter_values(values))));
    }
    for column in 0..STRINGS {
        let values = (0..ROWS).map(|row| format!("s{}", (row + column) % 5_000));
        columns.push((format!("s{column}"), Arc::new(StringArray::from_iter_values(values))));
    }
    let batch = RecordBatch::try_from_iter(columns)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    let (start, mut rows) = (Instant::now(), 0);
    while start.elapsed() < duration {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.clone()))?;
        writer.write(&batch)?;
        writer.into_inner()?;
        rows += ROWS as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Figure::of_rows("limit: bare Parquet writer, 50 columns, zstd", rows, seconds))
}
