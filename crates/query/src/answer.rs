//! An answer on its way out: record batches as messages of bounded size.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use granary_proto::MESSAGE_LEN_MAX;
use granary_proto::v1::ArrowBatch;
use tokio::sync::mpsc;
use tonic::Status;

use crate::Error;

/// What a call streams back.
pub(crate) type Message = Result<ArrowBatch, Status>;

/// The sending side of one answer. Each message is a whole Arrow IPC stream.
#[derive(Debug)]
pub(crate) struct Answer {
    messages: mpsc::Sender<Message>,
    bytes_max: usize,
    /// Rows sent so far.
    pub(crate) rows: u64,
    /// Arrow bytes sent so far.
    pub(crate) bytes: u64,
}

/// The caller is gone.
#[derive(Debug)]
pub(crate) struct Abandoned;

impl Answer {
    pub(crate) fn new(messages: mpsc::Sender<Message>, bytes_max: usize) -> Self {
        Self { messages, bytes_max, rows: 0, bytes: 0 }
    }

    /// Sends a batch, in as many messages as it takes; waits while the reader is slow.
    pub(crate) async fn send(&mut self, batch: &RecordBatch) -> Result<Result<(), Abandoned>, Error> {
        // Pieces still to send, the next one last.
        let mut pieces = vec![batch.clone()];
        while let Some(piece) = pieces.pop() {
            let ipc = encode(&piece)?;
            if ipc.len() > self.bytes_max && piece.num_rows() > 1 {
                pieces.extend(halves(&piece));
                continue;
            }
            // A tag and a length come before the bytes.
            if ipc.len() > MESSAGE_LEN_MAX - 16 {
                let message = format!("one row of the answer takes {} bytes, more than a message holds", ipc.len());
                return Err(granary_types::Error::invalid(message).into());
            }
            self.rows += piece.num_rows() as u64;
            self.bytes += ipc.len() as u64;
            if self.messages.send(Ok(ArrowBatch { ipc })).await.is_err() {
                return Ok(Err(Abandoned));
            }
        }
        Ok(Ok(()))
    }

    /// Ends the answer: one without rows still tells its columns.
    pub(crate) async fn finish(&mut self, schema: SchemaRef) -> Result<Result<(), Abandoned>, Error> {
        if self.bytes > 0 { Ok(Ok(())) } else { self.send(&RecordBatch::new_empty(schema)).await }
    }
}

fn halves(batch: &RecordBatch) -> [RecordBatch; 2] {
    let middle = batch.num_rows() / 2;
    [batch.slice(middle, batch.num_rows() - middle), batch.slice(0, middle)]
}

fn encode(batch: &RecordBatch) -> Result<Bytes, Error> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use arrow::ipc::reader::StreamReader;

    use super::*;

    #[tokio::test]
    async fn a_large_batch_comes_in_bounded_messages_in_order() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5_000));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..5_000).map(|_| "x".repeat(40))));
        let batch = RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).expect("columns of one length");
        let (sender, mut receiver) = mpsc::channel(1_000);
        let mut answer = Answer::new(sender, 20_000);
        answer.send(&batch).await.expect("encodes").expect("is read");
        answer.finish(batch.schema()).await.expect("encodes").expect("is read");
        drop(answer);
        let mut next = 0;
        while let Some(message) = receiver.recv().await {
            let ipc = message.expect("a batch").ipc;
            assert!(ipc.len() <= 20_000);
            for batch in StreamReader::try_new(ipc.as_ref(), None).expect("a stream") {
                for number in batch.expect("a batch").column(0).as_primitive::<Int64Type>().values() {
                    assert_eq!(*number, next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, 5_000);
    }

    #[tokio::test]
    async fn an_empty_answer_tells_its_columns() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let schema = RecordBatch::try_from_iter([("n", numbers)]).expect("one column").schema();
        let (sender, mut receiver) = mpsc::channel(1);
        Answer::new(sender, 1_000).finish(schema.clone()).await.expect("encodes").expect("is read");
        let ipc = receiver.recv().await.expect("a message").expect("a batch").ipc;
        assert_eq!(StreamReader::try_new(ipc.as_ref(), None).expect("a stream").schema(), schema);
    }
}
