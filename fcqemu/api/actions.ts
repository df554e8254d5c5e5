/** What requests ask for once they are parsed; named as in Firecracker's `VmmAction`. */
import type { Read } from '../json/schema.ts';
import type * as bodies from './bodies.ts';
import type { cpuConfig } from './cpu-config.ts';

type BodyOf<R> = R extends Read<infer T> ? T : never;

/** Every action with its argument. */
export interface ActionArguments {
  GetVmInstanceInfo: undefined;
  GetVmmVersion: undefined;
  GetFullVmConfig: undefined;
  GetVmMachineConfig: undefined;
  UpdateMachineConfiguration: BodyOf<typeof bodies.machineConfigUpdate>;
  ConfigureBootSource: BodyOf<typeof bodies.bootSource>;
  PutCpuConfiguration: BodyOf<typeof cpuConfig>;
  InsertBlockDevice: BodyOf<typeof bodies.drive>;
  UpdateBlockDevice: BodyOf<typeof bodies.driveUpdate>;
  RemoveBlockDevice: { id: string };
  InsertNetworkDevice: BodyOf<typeof bodies.networkInterface>;
  UpdateNetworkInterface: BodyOf<typeof bodies.networkUpdate>;
  RemoveNetworkDevice: { id: string };
  InsertPmemDevice: BodyOf<typeof bodies.pmem>;
  UpdatePmemDevice: BodyOf<typeof bodies.pmemUpdate>;
  RemovePmemDevice: { id: string };
  SetVsockDevice: BodyOf<typeof bodies.vsock>;
  SetEntropyDevice: BodyOf<typeof bodies.entropy>;
  ConfigureSerial: BodyOf<typeof bodies.serial>;
  ConfigureLogger: BodyOf<typeof bodies.logger>;
  ConfigureMetrics: BodyOf<typeof bodies.metrics>;
  GetMmds: undefined;
  PutMmds: { data: unknown };
  PatchMmds: { data: unknown };
  SetMmdsConfiguration: BodyOf<typeof bodies.mmdsConfig>;
  GetBalloonConfig: undefined;
  SetBalloonDevice: BodyOf<typeof bodies.balloon>;
  UpdateBalloon: BodyOf<typeof bodies.balloonUpdate>;
  GetBalloonStats: undefined;
  UpdateBalloonStatistics: BodyOf<typeof bodies.balloonStatsUpdate>;
  StartFreePageHinting: BodyOf<typeof bodies.hintingStart>;
  GetFreePageHintingStatus: undefined;
  StopFreePageHinting: undefined;
  SetMemoryHotplugDevice: BodyOf<typeof bodies.memoryHotplug>;
  UpdateMemoryHotplugSize: BodyOf<typeof bodies.memoryHotplugUpdate>;
  GetMemoryHotplugStatus: undefined;
  CreateSnapshot: BodyOf<typeof bodies.snapshotCreate>;
  LoadSnapshot: BodyOf<typeof bodies.snapshotLoad>;
  StartMicroVm: undefined;
  SendCtrlAltDel: undefined;
  FlushMetrics: undefined;
  Pause: undefined;
  Resume: undefined;
}

export type ActionName = keyof ActionArguments;

export type Action = { [N in ActionName]: { name: N; argument: ActionArguments[N] } }[ActionName];

/** A parsed request. */
export interface ParsedRequest {
  action: Action;
  /** logged as a warning, and answered with `Deprecation: true` */
  deprecation?: string;
}
