"""A LangChain chain over many inputs as one batch: langasync takes the chain apart, sends its prompts, and runs its parser.

pip install langasync langchain-openai
OPENAI_BASE_URL=http://127.0.0.1:8424/v1 OPENAI_API_KEY=none python examples/integrations/langchain_batch.py MODEL
"""

import asyncio
import sys

from langasync import batch_chain
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

WORDS = ["wind", "sun", "rain"]
chain = ChatPromptTemplate.from_template("Say a word about {word}") | ChatOpenAI(model=sys.argv[1]) | StrOutputParser()


async def main() -> None:
    """Where the program said `chain.batch(inputs)`."""
    job = await batch_chain(chain).submit([{"word": word} for word in WORDS])
    while (done := await job.get_results()).results is None:
        print(job.job_id, done.status_info.status.value)
        await asyncio.sleep(5)
    for word, text in zip(WORDS, done.results, strict=True):  # in the order of the inputs; what failed is an error object
        print(f"{word}: {text}")


asyncio.run(main())
