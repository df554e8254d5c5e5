import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { sideBySide, sleep } from '../../src/system/abort.ts';

const never = new AbortController().signal;

describe('work side by side', () => {
  it('comes to what each piece comes to, in its place', async () => {
    const [number, text] = await sideBySide(never, [
      async () => {
        await sleep(5);
        return 1;
      },
      async () => 'two',
    ]);
    assert.deepEqual([number + 1, text.length], [2, 3]);
    assert.deepEqual(await sideBySide(never, []), []);
  });

  it('ends with the first failure, which ends the others, after all of them have', async () => {
    const ended: string[] = [];
    const first = new BangerError('vmm_failed', 'first');
    const failing = sideBySide(never, [
      async (signal) => {
        await sleep(60_000, signal).catch(() => sleep(10));
        ended.push('slow');
        throw new Error('an echo');
      },
      async () => {
        await sleep(5);
        ended.push('fast');
        throw first;
      },
    ]);
    await assert.rejects(failing, first);
    assert.deepEqual(ended, ['fast', 'slow']);
  });

  it('is called off from outside with the reason of that', async () => {
    const caller = new AbortController();
    const reason = new BangerError('cancelled', 'called off');
    const waiting = sideBySide(caller.signal, [(signal) => sleep(60_000, signal)]);
    caller.abort(reason);
    await assert.rejects(waiting, reason);
  });
});
