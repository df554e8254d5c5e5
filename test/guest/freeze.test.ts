import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClientChannel } from 'ssh2';
import { freezeGuest } from '../../src/guest/freeze.ts';
import type { SshConnection } from '../../src/guest/ssh.ts';

/** A guest that is asked for words; it never gets to run what it is told, which would freeze this machine. */
function guest(answer: (said: string, channel: Fake) => void) {
  const asked: string[] = [];
  const connection: SshConnection = {
    closed: false,
    onClose: () => {},
    async exec(command) {
      asked.push(command);
      const channel = new Fake((text) => answer(text, channel));
      setImmediate(() => answer('', channel));
      return channel as unknown as ClientChannel;
    },
    [Symbol.asyncDispose]: async () => {},
  };
  return { asked, connection };
}

class Fake extends PassThrough {
  readonly stderr = new PassThrough();
  readonly #heard: (text: string) => void;
  closed_ = false;

  constructor(heard: (text: string) => void) {
    super();
    this.#heard = heard;
  }

  override write(chunk: unknown): boolean {
    this.#heard(String(chunk));
    return true;
  }

  override end(): this {
    return this;
  }

  close(): void {
    this.closed_ = true;
  }

  say(text: string): void {
    this.push(Buffer.from(`${text}\n`));
  }

  exit(code: number): void {
    this.emit('close', code);
  }
}

describe('a guest that is held still', () => {
  it('says for how long it could not write, from the first freeze to the last thaw', async () => {
    const { asked, connection } = guest((said, channel) => {
      if (said === '') {
        channel.say('banger: freezing');
        setTimeout(() => channel.say('banger: frozen'), 60);
      } else {
        assert.equal(said, 'thaw\n');
        channel.say('banger: thawed');
      }
    });
    const frozen = await freezeGuest(connection, ['/root', '/'], 10_000);
    await sleep(40);
    const pauseMs = await frozen.thaw();
    assert.ok(pauseMs !== undefined && pauseMs >= 95 && pauseMs < 5000, String(pauseMs));
    const [script = ''] = asked;
    // the root last, because the programs are on it, and thawed first
    assert.ok(script.indexOf('fsfreeze -f /root') < script.indexOf('fsfreeze -f /;'), script);
    assert.match(script, /sleep 10;/);
  });

  it('that thawed before its time is told, and so is one that went away', async () => {
    const late = guest((said, channel) => {
      if (said === '') channel.say('banger: freezing\nbanger: frozen');
      else channel.say('banger: late');
    });
    assert.equal(await (await freezeGuest(late.connection, ['/'], 1000)).thaw(), undefined);
    const gone = guest((said, channel) => {
      if (said === '') channel.say('banger: freezing\nbanger: frozen');
      else channel.exit(255);
    });
    assert.equal(await (await freezeGuest(gone.connection, ['/'], 1000)).thaw(), undefined);
  });

  it('that cannot is told with why', async () => {
    const without = guest((_said, channel) => channel.exit(92));
    await assert.rejects(freezeGuest(without.connection, ['/'], 1000), {
      code: 'guest_failed',
      message: /it has no fsfreeze \(package util-linux\)/,
    });
    const refuses = guest((_said, channel) => {
      channel.say('banger: freezing');
      channel.stderr.push('fsfreeze: /: freeze failed: Operation not supported\n');
      setTimeout(() => channel.exit(1), 20);
    });
    await assert.rejects(freezeGuest(refuses.connection, ['/'], 1000), { message: /Operation not supported/ });
  });
});
