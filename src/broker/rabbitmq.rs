//! STUB
use super::*;
pub(crate) struct RabbitMq;
impl Broker for RabbitMq {
    async fn connect(_: &url::BrokerUrl, _: &ConnectOptions, _: EventSender) -> Result<Self> {
        Ok(RabbitMq)
    }
    fn server_properties(&self) -> Vec<(String, String)> {
        vec![]
    }
    fn publish(&self, _: Message) -> impl Future<Output = Result<()>> + 'static {
        async { Ok(()) }
    }
    async fn declare_exchange(&self, _: &ExchangeSpec) -> Result<()> {
        Ok(())
    }
    async fn declare_queue(&self, _: &QueueSpec) -> Result<()> {
        Ok(())
    }
    async fn bind(&self, _: &str, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    async fn unbind(&self, _: &str, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    async fn delete_queue(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn consume(&self, _: &ConsumeSpec) -> Result<()> {
        Ok(())
    }
    async fn cancel(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn get(&self, _: &str, _: Lane) -> Result<Option<Delivery>> {
        Ok(None)
    }
    fn ack(&self, _: Receipt) {}
    fn nack(&self, _: Receipt, _: Nack) {}
    async fn close(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}
