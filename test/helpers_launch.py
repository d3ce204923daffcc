"""A stand-in for ROS 2's launch, which the wheels lack: keeps what a launch file builds, and takes events by hand.

Names and arguments are those of launch and launch_ros, Humble to Lyrical; a launch file that uses others fails here.
"""

from __future__ import annotations

import posixpath
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

EVERYWHERE = ("launch", "launch_ros", "ament_index_python", "lifecycle_msgs", "easi3r_ros.msg")


def entity(*names: str, required: tuple[str, ...] = ()):
    """A class that takes `names` as keywords and keeps them."""

    class Entity:
        def __init__(self, **values):
            assert set(required) <= set(values) <= set(names), f"{sorted(values)} are not of {names}"
            self.__dict__.update({name: None for name in names} | values)

    return Entity


class DeclareLaunchArgument:
    def __init__(self, name, *, default_value=None, description=""):
        self.name, self.default_value, self.description = name, default_value, description


class LaunchConfiguration:
    def __init__(self, name):
        self.name = name

    def perform(self, context):
        return context.values[self.name]


class Parameter:
    def __init__(self, name, value, *, value_type=None):
        assert value_type in (None, type(value))
        self.name, self.value = name, value


class LifecycleNode:
    def __init__(self, *, name, namespace, on_exit, **rest):
        self.name, self.namespace, self.on_exit, self.rest = name, namespace, on_exit, rest
        self.parameters = {item.name: item.value for item in rest.get("parameters", ()) if isinstance(item, Parameter)}
        self.transitions: list[int] = []
        self.node_name = "<not executed>"


class LaunchDescription:
    def __init__(self, entities):
        self.entities = entities


class FakeLaunch:
    """Executes what launch files return, and is the context that they see."""

    def __init__(self, **values: str):
        self.values, self.is_shutdown = values, False
        self.nodes, self.processes, self.timers, self.handlers = [], [], [], []
        self.drivers, self.environment = [], {}
        self.subscriptions, self.log, self.reasons = [], [], []
        self.pushed_namespace = "/"

    def run(self, entities) -> None:
        for item in entities or []:
            kind = type(item)
            if kind is LifecycleNode:
                item.node_name = posixpath.join(self.pushed_namespace, item.namespace, item.name)
                self.nodes.append(item)
            elif kind is RegisterEventHandler:
                self.handlers.append(item.event_handler)
            elif kind is OpaqueFunction:
                self.run(item.function(self))
            elif kind is EmitEvent:
                self._dispatch(item.event)
            elif kind is ExecuteProcess:
                self.processes.append(item)
            elif kind is TimerAction:
                self.timers.append(item)
            elif kind is GroupAction:
                self.run(item.actions)
            elif kind is SetEnvironmentVariable:
                self.environment[item.name] = item.value
            elif kind in (Node, IncludeLaunchDescription):
                self.drivers.append(item)
            elif kind is Shutdown:
                self.reasons.append(item.reason)
            else:
                assert kind is DeclareLaunchArgument, item

    def include(self, description: LaunchDescription, **values: str) -> None:
        """As IncludeLaunchDescription without a scope does it: what it sets stays set."""
        self.values.update(values)
        for item in description.entities:
            if isinstance(item, DeclareLaunchArgument) and item.default_value is not None:
                self.values.setdefault(item.name, item.default_value)
        self.run(description.entities)

    def transition(self, node: LifecycleNode, start: str, goal: str) -> None:
        for handler in [handler for handler in self.handlers if type(handler) is OnStateTransition]:
            aimed = handler.target_lifecycle_node in (None, node)
            if aimed and handler.start_state in (None, start) and handler.goal_state in (None, goal):
                self.run(handler.entities)

    def exits(self, process, returncode: int) -> None:
        self.run(process.on_exit(SimpleNamespace(returncode=returncode), self))

    def time_passes(self) -> None:
        """Every timer that runs fires once."""
        timers, self.timers = self.timers, []
        for timer in timers:
            self.run(timer.actions)

    def shut_down(self) -> None:
        self.is_shutdown = True
        for handler in [handler for handler in self.handlers if type(handler) is OnShutdown]:
            self.run(handler.on_shutdown(SimpleNamespace(), self))

    def _dispatch(self, event) -> None:
        if type(event) is ChangeState:
            for node in filter(event.lifecycle_node_matcher, self.nodes):
                node.transitions.append(event.transition_id)
        else:
            assert type(event) is ShutdownProcess
            for process in filter(event.process_matcher, [*self.nodes, *self.processes]):
                self.exits(process, 0)

    def get_logger(self, name: str):
        return SimpleNamespace(info=self.log.append, error=self.log.append)

    def create_subscription(self, kind, topic, callback, qos):
        self.subscriptions.append((topic, callback))
        return self.subscriptions[-1]


class RegisterEventHandler:
    def __init__(self, event_handler):
        self.event_handler = event_handler


class GroupAction:
    def __init__(self, actions):
        self.actions = actions


class SetEnvironmentVariable:
    def __init__(self, name, value):
        self.name, self.value = name, value


class Node:
    def __init__(self, *, package, executable, name, namespace="", parameters=(), output, arguments=(), remappings=()):
        self.package, self.executable, self.topic = package, executable, f"/{namespace}/image_raw"
        self.arguments = {item.name: item.value for item in parameters}
        self.command, self.remappings = list(arguments), dict(remappings)


class IncludeLaunchDescription:
    def __init__(self, source, *, launch_arguments):
        self.file, self.arguments = source, dict(launch_arguments)


EmitEvent = entity("event", required=("event",))
ExecuteProcess = entity("cmd", "output", "on_exit", required=("cmd",))
OpaqueFunction = entity("function", required=("function",))
TimerAction = entity("period", "actions", required=("period", "actions"))
Shutdown = entity("reason")
OnShutdown = entity("on_shutdown", required=("on_shutdown",))
OnStateTransition = entity("target_lifecycle_node", "start_state", "goal_state", "entities", required=("entities",))
ChangeState = entity("lifecycle_node_matcher", "transition_id", required=("lifecycle_node_matcher", "transition_id"))
ShutdownProcess = entity("process_matcher", required=("process_matcher",))


class PackageNotFoundError(KeyError):
    pass


def install(monkeypatch, launch: FakeLaunch, packages: tuple[str, ...] = ()) -> None:
    """Put the stand-in where launch files import from; packages: those that are installed."""

    def prefix(name: str) -> str:
        if name not in packages:
            raise PackageNotFoundError(name)
        return "/opt/ros"

    actions = (DeclareLaunchArgument, EmitEvent, ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown)
    named = dict(zip(("DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "OpaqueFunction"), actions, strict=False))
    named |= {"RegisterEventHandler": RegisterEventHandler, "Shutdown": Shutdown, "TimerAction": TimerAction}
    named |= {"GroupAction": GroupAction, "SetEnvironmentVariable": SetEnvironmentVariable}
    named |= {"IncludeLaunchDescription": IncludeLaunchDescription}
    modules = {
        "launch": {
            "Action": object,
            "LaunchContext": FakeLaunch,
            "LaunchDescription": LaunchDescription,
            "LaunchDescriptionEntity": object,
        },
        "launch.logging": {"get_logger": launch.get_logger},
        "launch.actions": named,
        "launch.event_handlers": {"OnShutdown": OnShutdown},
        "launch.events": {"matches_action": lambda action: lambda other: other is action},
        "launch.events.process": {"ProcessExited": object, "ShutdownProcess": ShutdownProcess},
        "launch.launch_description_sources": {"PythonLaunchDescriptionSource": lambda path: path},
        "launch.substitutions": {
            "LaunchConfiguration": LaunchConfiguration,
            "PathJoinSubstitution": lambda parts: "/".join(map(str, parts)),
        },
        "launch_ros": {},
        "launch_ros.actions": {"LifecycleNode": LifecycleNode, "Node": Node},
        "launch_ros.event_handlers": {"OnStateTransition": OnStateTransition},
        "launch_ros.events": {},
        "launch_ros.events.lifecycle": {"ChangeState": ChangeState},
        "launch_ros.ros_adapters": {name: lambda context: context for name in ("get_ros_node", "get_ros_adapter")},
        "launch_ros.parameter_descriptions": {"Parameter": Parameter},
        "launch_ros.substitutions": {
            "ExecutableInPackage": lambda *, package, executable: f"{package}/{executable}",
            "FindPackageShare": lambda package: f"share/{package}",
        },
        "ament_index_python": {},
        "ament_index_python.packages": {
            "PackageNotFoundError": PackageNotFoundError,
            "get_package_prefix": prefix,
        },
        "lifecycle_msgs": {},
        "lifecycle_msgs.msg": {"Transition": SimpleNamespace(TRANSITION_CONFIGURE=1, TRANSITION_ACTIVATE=3)},
        "easi3r_ros.msg": {"WindowStatus": object},
    }
    for name in [name for name in sys.modules if name.split(".")[0] in EVERYWHERE or name == "easi3r_ros.msg"]:
        monkeypatch.delitem(sys.modules, name)
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent and parent in modules:
            setattr(sys.modules[parent], last, module)


def load(path: Path) -> ModuleType:
    """A launch file as a module, as launch loads it."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    loader = SourceFileLoader("a_launch_file", str(path))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module
