/** The guest's side of a vsock over one serial port, in this process. */
import { join } from 'node:path';
import { type Duplex, duplexPair } from 'node:stream';
import type { TestContext } from 'node:test';
import { encodeFrame, type Frame, FrameDecoder, OP } from '../../../fcqemu/vmm/vsock/frames.ts';
import { Vsock } from '../../../fcqemu/vmm/vsock/vsock.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { waitFor } from './vmm-process.ts';

/** The guest's side: keeps every frame and answers what it is told to. */
export class FakeAgent {
  readonly frames: Frame[] = [];
  readonly #port: Duplex;
  onFrame: (frame: Frame) => void = () => {};

  constructor(port: Duplex) {
    this.#port = port;
    const decoder = new FrameDecoder();
    port.on('data', (bytes: Buffer) => {
      for (const frame of decoder.push(bytes)) {
        this.frames.push(frame);
        this.onFrame(frame);
      }
    });
  }

  send(op: number, stream: number, argument = 0, payload?: Buffer): void {
    this.#port.write(encodeFrame(op, stream, argument, payload));
  }

  raw(bytes: Buffer): void {
    this.#port.write(bytes);
  }

  async hello(): Promise<void> {
    this.send(OP.hello, 0);
    await waitFor(() => this.frames.some(({ op }) => op === OP.hello), 'the host’s hello');
  }

  received(op: number): Frame[] {
    return this.frames.filter((frame) => frame.op === op);
  }
}

/** A vsock and an agent that has not said hello yet; their connection ends with the test, as when QEMU ends. */
export async function attachedAgent(
  t: TestContext,
): Promise<{ path: string; vsock: Vsock; guest: Duplex; host: Duplex; agent: FakeAgent }> {
  const path = join(await tempDir(t), 'v.sock');
  const vsock = new Vsock();
  await vsock.put({ guest_cid: 42, uds_path: path });
  const [guest, host] = duplexPair();
  vsock.attach(host);
  t.after(() => host.destroy());
  return { path, vsock, guest, host, agent: new FakeAgent(guest) };
}
