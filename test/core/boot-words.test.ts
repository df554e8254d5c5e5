import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createBootWordReader } from '../../src/core/boot-words.ts';
import { becameReady } from '../../src/core/vm-changes.ts';
import { sampleVm } from '../support/sample-vm.ts';

describe('what a guest says about its boot', () => {
  it('is read from lines that come in pieces and among others', () => {
    const read = createBootWordReader();
    const text =
      'banger-init: start 1.02\nbanger-init: ready is said by default.target\nbanger-init: handover 1.9\n' +
      'Debian GNU/Linux 12 web ttyS0\n\nweb login: banger-ready: 9.12 nginx.service app@1.service\n';
    const words = [...text].flatMap((letter) => read(letter));
    assert.deepEqual(words, [
      { kind: 'announced' },
      { kind: 'handover' },
      { kind: 'ready', uptimeMs: 9120, failedUnits: ['nginx.service', 'app@1.service'] },
    ]);
  });

  it('is not believed beyond what it is good for', () => {
    const read = createBootWordReader();
    const units = Array.from({ length: 500 }, (_, index) => `u${index}.service`);
    const [word] = read(`banger-ready: 3.5 ${units.join(' ')}\n`);
    assert.ok(word?.kind === 'ready' && word.failedUnits.length === 20);
    assert.deepEqual(read(`banger-ready: soon\n${'x'.repeat(1_000_000)}`), []);
    assert.deepEqual(read('\nbanger-ready: 4 $(reboot)\n'), [{ kind: 'ready', uptimeMs: 4000, failedUnits: [] }]);
  });
});

describe('the time until a guest is ready', () => {
  const startedAt = new Date('2026-11-23T00:00:06.000Z');
  const vm = sampleVm({
    phase: 'running',
    startedAt: startedAt.toISOString(),
    bootMs: 6000,
    bootTimeline: [{ step: 'boot-guest', startedMs: 400, durationMs: 100 }],
  });
  const at = (ms: number) => new Date(startedAt.getTime() - 6000 + ms);

  it('is when it was heard, or what the guest said before anybody listened, counted from when its kernel started', () => {
    assert.equal(becameReady(vm, { at: at(60_000), failedUnits: [] }).ready?.ms, 60_000);
    const change = becameReady(vm, { at: at(60_000), uptimeMs: 9000, failedUnits: ['x.service'] });
    assert.deepEqual(change, { ready: { ms: 9500, failedUnits: ['x.service'] } });
  });

  it('is neither before the first login nor after it was heard, whatever the guest says', () => {
    assert.equal(becameReady(vm, { at: at(9000), uptimeMs: 1, failedUnits: [] }).ready?.ms, 6000);
    assert.equal(becameReady(vm, { at: at(9000), uptimeMs: 1e9, failedUnits: [] }).ready?.ms, 9000);
    assert.equal(becameReady(vm, { at: undefined, failedUnits: [] }).ready?.ms, 6000);
  });
});
