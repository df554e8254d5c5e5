import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createClient } from '../../src/client/client.ts';
import { followOperation } from '../../src/client/follow-operation.ts';
import { fakeDaemon } from './fake-daemon.ts';

describe('following an operation', () => {
  const step = { type: 'step', step: 'clone', label: 'cloning root disk', atMs: 1 };
  const done = { type: 'done', operation: { id: 'op1', state: 'succeeded' } };
  const lines = (...events: unknown[]) => events.map((event) => `${JSON.stringify(event)}\n`).join('');
  const address = 'GET /v1/operations/op1/events';

  it('passes on each event as it comes and ends with the operation', async (t) => {
    let response: ServerResponse | undefined;
    const { socketPath } = await fakeDaemon(t, {
      [address]: (_request, stream) => {
        response = stream;
        stream.write(lines(step));
      },
    });
    const seen: unknown[] = [];
    const operation = await followOperation(createClient({ socketPath }), 'op1', (event) => {
      seen.push(event);
      // the end is sent only now: the event came through without waiting for it
      response?.end(lines(done));
    });
    assert.deepEqual(seen, [step]);
    assert.equal(operation.state, 'succeeded');
  });

  it('reports a daemon that goes away, with the command that shows what became of it', async (t) => {
    const { socketPath } = await fakeDaemon(t, {
      [address]: async (_request, response) => {
        response.write(lines(step));
        await delay(10);
        response.destroy();
      },
    });
    await assert.rejects(
      followOperation(createClient({ socketPath }), 'op1', () => {}),
      { code: 'daemon_unreachable', hint: 'banger operation show op1' },
    );
  });

  it('reports a stream that ends before the operation does', async (t) => {
    const { socketPath } = await fakeDaemon(t, { [address]: (_request, response) => void response.end(lines(step)) });
    await assert.rejects(
      followOperation(createClient({ socketPath }), 'op1', () => {}),
      { code: 'daemon_unreachable' },
    );
  });

  it('stops when told to', async (t) => {
    const { socketPath } = await fakeDaemon(t, { [address]: (_request, response) => void response.write(lines(step)) });
    const stop = new AbortController();
    const following = followOperation(createClient({ socketPath }), 'op1', () => stop.abort(), stop.signal);
    await assert.rejects(following, { code: 'cancelled' });
  });
});
