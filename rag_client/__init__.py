"""The client of the application's side: ask a deployed endpoint, blocking or with asyncio. Needs boto3 alone.

pip install "rag-inference-container[client]"
"""

from rag_client.async_client import AsyncClient, AsyncSession
from rag_client.client import Client, Session
from rag_client.failures import CallFailed

__all__ = ["AsyncClient", "AsyncSession", "CallFailed", "Client", "Session"]
