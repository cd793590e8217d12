//! Makes a query's operators stop when it was ended, and give way to other queries.
//!
//! DataFusion's operators wait, and can be dropped, where they read from a source. A join of small tables that makes many
//! rows of them reads nothing for minutes. So every operator's stream is wrapped: before each batch it looks whether
//! the query was ended, and now and then lets another task have the thread. A join whose condition lets nothing through
//! gives no batch either; its condition is wrapped, too, and is looked at some thousand pairs at a time.
//!
//! What is left: one step of one operator, such as sorting one batch run or building one hash table, ends by itself.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, RecordBatchStream,
    ReplaceChildrenOptions, SendableRecordBatchStream,
};
use futures::Stream;
use granary_platform::Platform;
use tokio::time::Instant;

/// How long a query may keep a thread while others wait for it.
const TURN: Duration = Duration::from_millis(10);

/// Ends the work of one query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on every step of the query fails.
    pub(crate) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(DataFusionError::Execution("the query was ended".to_owned()));
        }
        Ok(())
    }
}

/// The last rule that plans a query: wraps every operator and every join's condition.
#[derive(Debug)]
pub(super) struct StopEverywhere {
    pub(super) stop: Stop,
    pub(super) platform: Platform,
}

impl PhysicalOptimizerRule for StopEverywhere {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |plan| {
            let input = self.with_stopping_condition(plan)?;
            let wrapped = Stoppable { input, stop: self.stop.clone(), platform: self.platform.clone() };
            Ok(Transformed::yes(Arc::new(wrapped) as Arc<dyn ExecutionPlan>))
        };
        Ok(plan.transform_up(wrap)?.data)
    }

    fn name(&self) -> &'static str {
        "StopEverywhere"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl StopEverywhere {
    fn with_stopping_condition(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let filter = join.filter().map(|filter| self.condition(filter));
            return Ok(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(filter).build()?));
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            let filter = join.filter().map(|filter| self.condition(filter));
            return join.builder().with_filter(filter).build_exec();
        }
        Ok(plan)
    }

    fn condition(&self, filter: &JoinFilter) -> JoinFilter {
        let condition = Condition { inner: Arc::clone(filter.expression()), stop: self.stop.clone() };
        JoinFilter::new(Arc::new(condition), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
    }
}

/// An operator that can be stopped before each of its batches.
#[derive(Debug)]
struct Stoppable {
    input: Arc<dyn ExecutionPlan>,
    stop: Stop,
    platform: Platform,
}

impl DisplayAs for Stoppable {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stoppable")
    }
}

impl ExecutionPlan for Stoppable {
    fn name(&self) -> &'static str {
        "Stoppable"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop().filter(|_| children.is_empty()) else {
            return Err(DataFusionError::Internal("it wraps one operator".to_owned()));
        };
        Ok(Arc::new(Self { input, stop: self.stop.clone(), platform: self.platform.clone() }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inner = self.input.execute(partition, context)?;
        let turn_began = self.platform.instant();
        Ok(Box::pin(StoppableStream {
            inner,
            stop: self.stop.clone(),
            platform: self.platform.clone(),
            gave_way: false,
            turn_began,
        }))
    }
}

struct StoppableStream {
    inner: SendableRecordBatchStream,
    stop: Stop,
    platform: Platform,
    /// The task has given its thread away since it was polled last, so a new turn begins.
    gave_way: bool,
    turn_began: Instant,
}

impl Stream for StoppableStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stop.check()?;
        let now = self.platform.instant();
        if std::mem::take(&mut self.gave_way) {
            self.turn_began = now;
        } else if now.duration_since(self.turn_began) >= TURN {
            self.gave_way = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.inner.as_mut().poll_next(context);
        self.gave_way = polled.is_pending();
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

impl RecordBatchStream for StoppableStream {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

/// A join's condition that fails once the query was ended.
#[derive(Debug)]
struct Condition {
    inner: Arc<dyn PhysicalExpr>,
    stop: Stop,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Condition {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.stop.check()?;
        self.inner.evaluate(batch)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(inner) = children.pop().filter(|_| children.is_empty()) else {
            return Err(DataFusionError::Internal("it wraps one condition".to_owned()));
        };
        Ok(Arc::new(Self { inner, stop: self.stop.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
