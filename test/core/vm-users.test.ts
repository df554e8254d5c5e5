import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { chooseUser, DEFAULT_USERS, isMapped, parseUserRange, SMALL_USERS } from '../../src/core/vm-users.ts';

describe('a range of users for VMs', () => {
  it('is written as the first and the last one', () => {
    assert.deepEqual(parseUserRange('200000-265535'), { first: 200_000, last: 265_535 });
    for (const text of [
      '',
      '5',
      '0-5',
      '999-2000',
      '2000-2000',
      '3000-2000',
      '1000-4294967294',
      '-1-5',
      ' 1000-2000',
    ]) {
      assert.throws(() => parseUserRange(text), { code: 'invalid_input' }, text);
    }
  });

  it('exists where the user namespace has all of it', () => {
    const host = '         0          0 4294967295\n';
    const container = '         0     100000      65536\n';
    const torn = '0 100000 50000\n50000 200000 15536\n';
    assert.ok(isMapped(host, DEFAULT_USERS));
    assert.ok(!isMapped(container, DEFAULT_USERS));
    assert.ok(isMapped(container, SMALL_USERS));
    assert.ok(!isMapped(torn, SMALL_USERS));
    assert.ok(!isMapped('', SMALL_USERS));
  });
});

describe('the user of a VM', () => {
  const range = { first: 1000, last: 1003 };

  it('is the same for the same id, another than the first of the range, and nobody else has it', () => {
    const chosen = chooseUser(range, '00000001', new Set());
    assert.equal(chosen, chooseUser(range, '00000001', new Set()));
    const all = new Set<number>();
    for (let count = 0; count < 3; count++) all.add(chooseUser(range, '5f3a9c01', all));
    assert.deepEqual([...all].sort(), [1001, 1002, 1003]);
    assert.throws(() => chooseUser(range, '5f3a9c01', all), { code: 'conflict', message: /All 3 users/ });
  });

  it('is in the range for every id', () => {
    for (const id of ['00000000', 'ffffffff', '80000000', '7fffffff']) {
      const user = chooseUser(DEFAULT_USERS, id, new Set());
      assert.ok(user > DEFAULT_USERS.first && user <= DEFAULT_USERS.last, String(user));
    }
  });
});
