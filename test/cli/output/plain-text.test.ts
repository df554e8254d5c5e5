/** What guests, archives and servers say, on its way to a terminal. */
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { plainData, plainPainted, plainText } from '../../../src/cli/output/plain-text.ts';
import { BangerError } from '../../../src/errors.ts';
import { cli } from '../cli.ts';

/** Clears the screen, sets the title, both as C0 and as C1, and turns letters round. */
const HOSTILE = '\x1b[2J\x1b]0;owned\x07\u009b2J\u009d0;owned\u009c\u202egnp.exe\u2066\r';

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not come through
const FORBIDDEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/;

const clean = ({ stdout, stderr }: { stdout: string; stderr: string }, word: string) => {
  assert.doesNotMatch(stdout + stderr, FORBIDDEN);
  assert((stdout + stderr).includes(word), `"${word}" is not told: ${stdout}${stderr}`);
};

describe('text from outside', () => {
  it('keeps letters of all languages, tabs and line breaks, and loses what does more than be read', () => {
    assert.equal(plainText('grün 日本 👩‍💻\tx\r\ny'), 'grün 日本 👩‍💻\tx\ny');
    assert.equal(plainText(HOSTILE), '?]0;owned??0;owned??gnp.exe??');
  });

  it('may not bring colours of its own where the command line paints', () => {
    const painted = `\x1b[31mfailed\x1b[39m ${HOSTILE}\x1b[8mhidden`;
    assert.equal(plainPainted(painted), `\x1b[31mfailed\x1b[39m ${plainText(HOSTILE)}hidden`);
  });

  it('is made plain wherever it is in an answer, keys too', () => {
    assert.deepEqual(plainData({ [HOSTILE]: [HOSTILE, { a: HOSTILE, b: 1, c: null }] }), {
      [plainText(HOSTILE)]: [plainText(HOSTILE), { a: plainText(HOSTILE), b: 1, c: null }],
    });
  });

  it('reaches no terminal as an error, its hint, or a failed check', async () => {
    const failing = (error: BangerError) => ({
      listPorts: () => {
        throw error;
      },
    });
    const refusal = new BangerError('guest_failed', `SSH was refused: bye ${HOSTILE}`, { hint: `Look: ${HOSTILE}` });
    for (const options of [{}, { terminal: true, env: { NO_COLOR: '1', TERM: 'xterm' } }]) {
      clean(await cli('ports web', failing(refusal), options), 'SSH was refused: bye');
    }
    const checks = [{ status: 'failed', title: HOSTILE, detail: `said ${HOSTILE}`, fix: HOSTILE }];
    const unprepared = new BangerError('preflight_failed', HOSTILE, { details: { checks } });
    clean(await cli('ports web', failing(unprepared)), 'said');
  });

  it('reaches no terminal in tables, and forges no line of one', async () => {
    const listPorts = () => [
      {
        port: 80,
        addresses: [`1.2.3.4${HOSTILE}\nFAKE`],
        processes: [{ name: `nginx${HOSTILE}`, pid: 1 }],
        reach: 'network' as const,
        exposed: false,
        url: null,
      },
    ];
    const result = await cli('ports web', { listPorts });
    clean(result, '1.2.3.4');
    assert.equal(result.stdout.trimEnd().split('\n').length, 2);
  });

  it('reaches no terminal in logs, whole characters across chunks', async () => {
    const bytes = Buffer.from(`grün ${HOSTILE}end\n`);
    const logs = () => Readable.from([bytes.subarray(0, 3), bytes.subarray(3)], { objectMode: false });
    const result = await cli('logs web', { logs });
    clean(result, 'grün');
    assert(result.stdout.endsWith('end\n'));
  });

  it('reaches no terminal in events', async () => {
    const watchEvents = () => [
      {
        seq: 1,
        at: '2026-01-02T03:04:05.678Z',
        vm: 'web',
        id: '0a1b2c3d',
        type: 'vm.state' as const,
        from: 'starting' as const,
        to: 'failed' as const,
        reason: `the guest said ${HOSTILE}`,
      },
    ];
    clean(await cli('events', { watchEvents }), 'the guest said');
    const json = await cli('events --json', { watchEvents });
    clean(json, 'the guest said');
    assert.equal(JSON.parse(json.stdout).reason, `the guest said ${HOSTILE}`);
  });
});
