#!/usr/bin/env python3
"""A TCP proxy that holds everything back for a while, in both directions: a store that is far away.

    python3 loadtest/throttle/delay.py LISTEN_PORT TARGET_PORT MILLISECONDS

The milliseconds are added to a round trip: half of them in each direction. Loopback only.
"""

import asyncio
import sys


async def main(listen, target, delay):
    async def accept(reader, writer):
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, there[1], delay), pump(there[0], writer, delay))

    server = await asyncio.start_server(accept, "127.0.0.1", listen)
    async with server:
        await server.serve_forever()


async def pump(reader, writer, delay):
    """Passes on what it reads when its time has come, in the order in which it came."""
    loop = asyncio.get_running_loop()
    # Bounded: who reads nothing is not written to without end.
    waiting = asyncio.Queue(1024)

    async def deliver():
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if not data:
                return
            writer.write(data)
            await writer.drain()

    delivery = asyncio.create_task(deliver())
    try:
        while True:
            data = await reader.read(65536)
            await waiting.put((loop.time() + delay, data))
            if not data:
                break
        await delivery
    except OSError:
        delivery.cancel()
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 2000))
