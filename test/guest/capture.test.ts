import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import type { ClientChannel } from 'ssh2';
import { captureFromGuest } from '../../src/guest/capture.ts';
import { connectSsh, type SshConnection } from '../../src/guest/ssh.ts';
import { paced } from '../support/pace.ts';
import { sshGuest } from './ssh-guest.ts';

const LIMITS = { timeoutMs: 2000, maxBytes: 1000 };

/** A connection whose guest does with its channel what the test says. */
function guestThat(behaves: (channel: PassThrough) => void): { connection: SshConnection; closed: () => boolean } {
  let closed = false;
  const connection: SshConnection = {
    closed: false,
    onClose: () => {},
    async exec() {
      const channel = Object.assign(new PassThrough(), {
        stderr: new PassThrough(),
        close: () => {
          closed = true;
        },
      });
      setImmediate(() => behaves(channel));
      // what is asked of a channel here, a PassThrough and these members do
      return channel as unknown as ClientChannel;
    },
    [Symbol.asyncDispose]: async () => {},
  };
  return { connection, closed: () => closed };
}

describe('a question to a guest', () => {
  it('is answered with what the command printed', async (t) => {
    const { target } = await sshGuest(t);
    await using connection = await connectSsh(target, 5000);
    assert.equal(await captureFromGuest(connection, 'cat /proc/meminfo', LIMITS), 'cat /proc/meminfo');
  });

  it('has no answer when the command fails', async () => {
    const { connection } = guestThat((channel) => {
      channel.write('half');
      channel.emit('exit', 1);
      channel.end();
    });
    assert.equal(await captureFromGuest(connection, 'false', LIMITS), undefined);
  });

  it('has no answer when the guest takes too long, and its channel is closed', async () => {
    const { connection, closed } = guestThat(() => {});
    const began = performance.now();
    assert.equal(await captureFromGuest(connection, 'sleep', { ...LIMITS, timeoutMs: 50 }), undefined);
    assert.ok(performance.now() - began < paced(1000) && closed());
  });

  it('has no answer when the guest never lets a channel open', async () => {
    const { connection } = guestThat(() => {});
    const stuck: SshConnection = { ...connection, exec: () => new Promise(() => {}) };
    assert.equal(await captureFromGuest(stuck, 'x', { ...LIMITS, timeoutMs: 50 }), undefined);
    const refusing: SshConnection = { ...connection, exec: () => Promise.reject(new Error('no more sessions')) };
    assert.equal(await captureFromGuest(refusing, 'x', LIMITS), undefined);
  });

  it('has no answer when the guest says too much, of which nothing is kept', async () => {
    let sent = 0;
    const { connection, closed } = guestThat((channel) => {
      const flood = setInterval(() => {
        channel.write('x'.repeat(500));
        if (++sent === 10) clearInterval(flood);
      }, 1);
    });
    assert.equal(await captureFromGuest(connection, 'yes', LIMITS), undefined);
    assert.ok(closed() && sent < 10, `given up after ${sent} chunks`);
  });

  it('leaves no listener on a connection that is kept', async (t) => {
    const { target } = await sshGuest(t);
    await using connection = await connectSsh(target, 5000);
    const warnings: Error[] = [];
    const onWarning = (warning: Error) => warnings.push(warning);
    process.on('warning', onWarning);
    t.after(() => process.off('warning', onWarning));
    for (let round = 0; round < 30; round++) await captureFromGuest(connection, 'x', LIMITS);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(warnings, []);
  });
});
