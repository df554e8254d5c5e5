import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { describe, it } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { createLiveView } from '../../src/cli/output/live-progress.ts';
import { createPlainView } from '../../src/cli/output/plain-progress.ts';
import type { Output } from '../../src/cli/terminal.ts';
import { cli, done, operation, vm } from './cli.ts';

/** Whether the last thing written erased the line and went to its beginning. */
function erased(written: string): boolean {
  return written.replaceAll('\u001b[?2026l', '').endsWith('\u001b[2K\u001b[G');
}
const unpainted = (_colour: string, text: string) => text;

describe('progress line by line', () => {
  it('says each thing once, and percentages now and then', () => {
    const lines: string[] = [];
    let now = 0;
    const task = createPlainView(
      (line) => lines.push(line),
      () => now,
    ).begin('bundle build');
    task.step('unpacking');
    task.step('unpacking');
    for (; now < 12_000; now += 1000) task.progress({ label: 'downloading', done: now, total: 20_000 });
    assert.deepEqual(lines, [
      'bundle build: unpacking',
      'bundle build: downloading 0 %',
      'bundle build: downloading 25 %',
      'bundle build: downloading 50 %',
    ]);
  });
});

describe('progress on a terminal', () => {
  /** A terminal that keeps what is written to it. */
  function terminal(columns = 60) {
    let written = '';
    const output: Output = new Writable({
      write(chunk, _encoding, done) {
        written += chunk;
        done();
      },
    });
    Object.assign(output, { isTTY: true, columns, rows: 24 });
    const lines = () => stripVTControlCharacters(written).split('\n').filter(Boolean);
    return { output, lines, written: () => written };
  }

  it('shows spinner, step and time, and a bar where the end is known', (t) => {
    const { output, lines } = terminal(80);
    let now = 0;
    t.mock.timers.enable({ apis: ['setInterval'] });
    const view = createLiveView(output, { paint: unpainted, unicode: false, now: () => now });
    const task = view.begin('start web');
    now = 1500;
    task.step('cloning root disk');
    assert.equal(lines().at(-1), '| start web: cloning root disk  1.5 s');
    task.progress({ label: 'copying', done: 1, total: 4, detail: '1 GiB' });
    t.mock.timers.tick(100);
    assert.equal(lines().at(-1), '/ start web: copying  #####--------------- 25 %  1 GiB  1.5 s');
    task.end();
    view.close();
  });

  it('keeps a line within the terminal and guests\u2019 control sequences out of it', (t) => {
    const { output, lines, written } = terminal(40);
    t.mock.timers.enable({ apis: ['setInterval'] });
    const view = createLiveView(output, { paint: unpainted, unicode: true, now: () => 0 });
    const task = view.begin('start web');
    task.step('booting');
    task.log('\u001b[2J\u001b[31mred\u0007 \u001b[0mand a very long line from the guest that does not fit');
    t.mock.timers.tick(100);
    const line = lines().at(-1) ?? '';
    assert.match(line, /^. start web: booting {2}red\? and.*~ {2}0\.0 s$/);
    assert.ok(line.length <= 40, line);
    assert.ok(!written().includes('\u001b[2J\u001b[31mred'));
    view.close();
  });

  it('shows several at once and stops drawing after the last', (t) => {
    const { output, lines, written } = terminal();
    t.mock.timers.enable({ apis: ['setInterval'] });
    const view = createLiveView(output, { paint: unpainted, unicode: false, now: () => 0 });
    const [web, db] = [view.begin('start web'), view.begin('start db')];
    assert.deepEqual(
      lines()
        .slice(-2)
        .map((line) => line.slice(2)),
      ['start web  0.0 s', 'start db  0.0 s'],
    );
    web.end();
    db.end();
    const before = written();
    t.mock.timers.tick(1000);
    assert.equal(written(), before);
    assert.ok(erased(before));
  });

  it('prints the last lines of output when the action fails', (t) => {
    const { output, lines } = terminal();
    t.mock.timers.enable({ apis: ['setInterval'] });
    const view = createLiveView(output, { paint: unpainted, unicode: false, now: () => 0 });
    const task = view.begin('bundle build');
    for (let line = 1; line <= 20; line++) task.log(`line ${line}`);
    task.fail();
    task.end();
    const shown = lines().filter((line) => line.startsWith('  line'));
    assert.equal(shown.length, 15);
    assert.deepEqual([shown[0], shown.at(-1)], ['  line 6', '  line 20']);
  });

  it('leaves only the closing sentence behind', async () => {
    const { stdout, stderr } = await cli(
      'start web',
      { startVm: () => operation(), events: { op1: [done({ result: vm('web') })] } },
      { terminal: true },
    );
    assert.match(stdout, /^web is running at/);
    assert.ok(erased(stderr), JSON.stringify(stderr.slice(-40)));
  });
});
