import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { chooseRoot, type RootCandidate } from '../../src/core/root-partition.ts';

const LINUX = '0fc63daf-8483-4772-8e79-3d69d8477de4';
const ROOT = '4f68bce3-e8cd-4db1-96e7-fbcaf984b709';

function part(number: number, length: number, more: Partial<RootCandidate> & { kind?: string; label?: string } = {}) {
  const { kind = 'ext4', label = '', type = LINUX, name = '' } = more;
  return { number, length, type, name, volume: { kind, label } };
}

const chosen = (...parts: RootCandidate[]) => {
  const choice = chooseRoot(parts, 'x86_64');
  return 'found' in choice ? choice.found.number : choice.among.map(({ number }) => number);
};

describe('the root among partitions', () => {
  it('is the only one with a file system for it', () => {
    assert.equal(chosen(part(1, 100), part(14, 3, { kind: 'other' }), part(15, 124, { kind: 'other' })), 1);
  });

  it('is the one that the table says is', () => {
    assert.equal(chosen(part(1, 100, { type: ROOT }), part(2, 5000)), 1);
  });

  it('is not what is for booting or for homes, by its type or its name', () => {
    assert.equal(chosen(part(2, 1000, { label: 'BOOT' }), part(4, 2000, { kind: 'xfs' })), 4);
    assert.equal(chosen(part(1, 10, { name: 'boot' }), part(2, 10), part(3, 99, { label: 'home' })), 2);
    assert.equal(chosen(part(1, 10, { type: 'bc13c2ff-59e6-4262-a352-b275fd6f7172' }), part(2, 20)), 2);
  });

  it('is the one that is much larger, and asked for where none is', () => {
    assert.equal(chosen(part(1, 10), part(2, 50)), 2);
    assert.deepEqual(chosen(part(1, 10), part(2, 20)), [2, 1]);
    assert.deepEqual(chosen(part(1, 10, { kind: 'other' })), []);
  });
});
