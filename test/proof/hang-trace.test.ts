import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { hangIn, watchScript } from './hang-trace.ts';

/** As the kernel of a rig wrote it while a guest hung. */
const EXIT =
  ' qemu-system-x86-1008    [001] .....  1477.374853: kvm_exit: vcpu 0 reason npf rip 0xffffffffc03e3dcc info1 0x000000020000000e info2 0x0000000105f96fe0 intr_info 0x80000b0e error_code 0x00000010';

describe('a guest that stands in the code of KVM', () => {
  it('hangs when it leaves there again and again, and the last time is the evidence', () => {
    assert.deepEqual(hangIn(`# tracer: nop\n${`${EXIT}\n`.repeat(300)}`), {
      evidence: `a guest stands in KVM's own code:\n${EXIT.trim()}`,
      tid: 1008,
    });
  });

  it('is known by the thread of its processor, whatever that is called', () => {
    const named = EXIT.replace(' qemu-system-x86-1008', '       CPU 0/KVM-77');
    const once = EXIT.replace('1008', '1009');
    assert.equal(hangIn(`${once}\n${`${named}\n`.repeat(300)}`)?.tid, 77);
    assert.equal(
      hangIn(`${`${EXIT}\n`.repeat(150)}${`${named}\n`.repeat(150)}`),
      undefined,
      'neither alone did it often',
    );
  });

  it('is a module of its own at the same address when it leaves there now and then', () => {
    assert.equal(hangIn(`${EXIT}\n${EXIT}\n`), undefined);
    assert.equal(hangIn(''), undefined);
  });

  it('is looked for at what KVM enters guests by, and nowhere else', () => {
    const symbols =
      'ffffffffc03e3d00 t __svm_vcpu_run_other\t[kvm_amd]\nffffffffc03e3d80 t __svm_vcpu_run\t[kvm_amd]\n';
    assert.match(watchScript(symbols), /guest_rip >= 0xffffffffc03e3d80 && guest_rip < 0xffffffffc03e3f80'/);
    assert.throws(() => watchScript('ffffffff81000000 T _text\n'), /kvm_amd is not loaded/);
  });
});
