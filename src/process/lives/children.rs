//! Parents and children.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_waits_for_its_children_without_a_slot() {
    let home = Home::start(1).await;
    let outputs = home.run("family", "child step child fail child slow children outcomes").await.unwrap();
    assert_eq!(outputs.as_str(), Some("finished excepted finished"));
    home.close().await;
}

/// P7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_not_doubled_when_the_step_runs_again() {
    let store = MemoryPersister::new();
    let mut home = Home::on("memory:lives-doubled", 1, store.clone()).await;
    let (stage, child) = (Stage::of("doubled"), Stage::of("doubled-child"));
    // The step that launches them hangs afterwards.
    let pid = home.controller.launch("brood").arg("doubled").nowait().await.unwrap();
    eventually("its step hangs", || stage.begun() == 1 && stage.notes().len() == 3).await;
    home.worker.take().unwrap().drain(Duration::ZERO).await;
    let again = Home::on("memory:lives-doubled", 1, store.clone()).await;
    eventually("it hangs again", || stage.begun() == 2 && stage.notes().len() == 6).await;
    stage.open();
    again.becomes(&pid, "finished").await;
    let notes = stage.notes();
    assert_eq!(notes[..3], notes[3..], "the same children");
    assert_eq!(child.begun(), 3, "and each ran once");
    let all = store.list(store::ListFilter::new()).await.unwrap().processes;
    assert_eq!(all.len(), 4);
    again.close().await;
    home.close().await;
}

/// Launches three children in one step, and hangs.
#[derive(Serialize, Deserialize)]
pub(super) struct Brood {
    stage: String,
    children: Vec<String>,
}

impl Process for Brood {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        let stage = inputs.args().first().and_then(Value::as_str).ok_or("no stage")?.to_owned();
        Ok(Brood { stage, children: Vec::new() })
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        if !self.children.is_empty() {
            return Ok(Next::finish(()));
        }
        let stage = Stage::of(&self.stage);
        let _in_step = InStep::begin(&stage);
        for _ in 0..3 {
            let inputs = Inputs::new().arg(format!("{}-child", self.stage)).arg("");
            let child = context.launch_child("script", inputs).await?;
            stage.note(child.to_string());
            self.children.push(child.to_string());
        }
        stage.opened().await;
        let children: Result<Vec<Pid>, _> = self.children.iter().map(|child| child.parse()).collect();
        Ok(Next::wait_for(children?))
    }
}

/// P6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_parents_on_one_slot_come_to_their_end() {
    let home = Home::start(1).await;
    let parents: Vec<_> = (0..1_000)
        .map(|_| {
            let parent = home.controller.launch("script").arg("thousand").arg("child step children outcomes");
            tokio::spawn(parent.timeout(Duration::from_secs(300)))
        })
        .collect();
    for parent in parents {
        assert_eq!(parent.await.unwrap().unwrap().as_str(), Some("finished"));
    }
    assert_eq!(Stage::of("thousand").most.load(Ordering::SeqCst), 1);
    assert_eq!(home.store.list(store::ListFilter::new()).await.unwrap().processes.len(), 2_000);
    home.close().await;
}
