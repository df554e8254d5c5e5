/** Commands in a guest: their output, input, limits and ends. */
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import type { ServerChannel } from 'ssh2';
import { BangerError } from '../../src/errors.ts';
import { runInGuest } from '../../src/guest/run.ts';
import { connectSsh } from '../../src/guest/ssh.ts';
import { sshGuest } from './ssh-guest.ts';

/** What the guest does with a command. */
const COMMANDS: Record<string, (channel: ServerChannel) => void> = {
  fail(channel) {
    channel.write('one\ntwo\n');
    channel.stderr.write('oops\n');
    channel.exit(3);
    channel.end();
  },
  hang: (channel) => void channel.write('on\n'),
  many(channel) {
    for (let line = 0; line < 5000; line++) channel.write(`line ${line}\n`);
    channel.exit(0);
    channel.end();
  },
  leave(channel) {
    channel.write('left\n');
    channel.exit(3); // and what it started holds the channel
  },
  count(channel) {
    let bytes = 0;
    channel.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    channel.on('end', () => {
      channel.write(String(bytes));
      channel.exit(0);
      channel.end();
    });
  },
  killed(channel) {
    channel.exit('KILL');
    channel.end();
  },
};

async function guest(t: TestContext) {
  const { target } = await sshGuest(
    t,
    () => true,
    (command, channel) => COMMANDS[command]?.(channel),
  );
  const connection = await connectSsh(target, 5000);
  t.after(() => connection[Symbol.asyncDispose]());
  return connection;
}

describe('a command in a guest', () => {
  it('ends with its exit code and the lines it said', async (t) => {
    const lines: string[] = [];
    const run = await runInGuest(await guest(t), 'fail', { timeoutMs: 5000, onLine: (line) => lines.push(line) });
    assert.deepEqual([run.exitCode, run.signal, run.timedOut], [3, null, false]);
    assert.deepEqual(lines.toSorted(), ['one', 'oops', 'two']);
    assert.deepEqual(run.tail, lines);
  });

  it('that says much leaves its last lines', async (t) => {
    const run = await runInGuest(await guest(t), 'many', { timeoutMs: 20_000 });
    assert.equal(run.tail.length, 30);
    assert.equal(run.tail.at(-1), 'line 4999');
  });

  it('is not waited for longer because of what it left in the background', async (t) => {
    const run = await runInGuest(await guest(t), 'leave', { timeoutMs: 60_000 });
    assert.deepEqual([run.exitCode, run.timedOut, run.lingers, run.tail], [3, false, true, ['left']]);
  });

  it('that does not end is given up at its limit', async (t) => {
    const run = await runInGuest(await guest(t), 'hang', { timeoutMs: 100 });
    assert.deepEqual([run.exitCode, run.timedOut, run.tail], [null, true, ['on']]);
  });

  it('is left when it is called off, with the reason', async (t) => {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, new AbortController().signal]);
    const running = runInGuest(await guest(t), 'hang', {
      timeoutMs: 60_000,
      signal,
      onLine: () => stop.abort(new BangerError('cancelled', 'enough')),
    });
    await assert.rejects(running, { code: 'cancelled', message: 'enough' });
  });

  it('is left also when that happens while it begins', async (t) => {
    const stop = new AbortController();
    const running = runInGuest(await guest(t), 'hang', { timeoutMs: 60_000, signal: stop.signal });
    stop.abort(new BangerError('cancelled', 'enough'));
    await assert.rejects(running, { code: 'cancelled', message: 'enough' });
  });

  it('takes its input to the end, and keeps its output when that is asked for', async (t) => {
    const input = Readable.from(Array.from({ length: 50 }, () => Buffer.alloc(40_000)));
    const run = await runInGuest(await guest(t), 'count', { timeoutMs: 10_000, input, capture: true });
    assert.deepEqual([run.exitCode, run.stdout, run.tail], [0, '2000000', []]);
  });

  it('does not take a broken input for the whole', async (t) => {
    const input = Readable.from(
      (async function* () {
        yield 'part';
        throw new Error('the file is gone');
      })(),
    );
    await assert.rejects(runInGuest(await guest(t), 'count', { timeoutMs: 10_000, input }), /the file is gone/);
  });

  it('that a signal ended says which', async (t) => {
    const run = await runInGuest(await guest(t), 'killed', { timeoutMs: 5000 });
    assert.deepEqual([run.exitCode, run.signal], [null, 'SIGKILL']);
  });
});
