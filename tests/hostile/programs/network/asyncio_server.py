# Starts a server with asyncio.
# expect: ok error
import asyncio
async def main():
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    print("BREACH" if server.sockets else "a server without sockets")
asyncio.run(main())
